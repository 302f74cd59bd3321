// Package kv is the capability kv: a small transactional store for each plugin,
// kept between starts and bounded in size.
package kv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// The bounds of one plugin's store. A key is 1 to 512 bytes, a value up to
// 1 MiB of text.
const (
	maxSize = 64 << 20 // bytes of keys and values
	maxList = 1000
	lockFor = 2 * time.Second
)

var (
	bucket  = []byte("kv")
	meta    = []byte("meta")
	keySize = []byte("size")
)

const (
	keySchema   = `{"type": "string", "minLength": 1, "maxLength": 512}`
	valueSchema = `{"type": ["string", "null"], "maxLength": 1048576}`
	getParams   = `{"type": "object", "properties": {"key": ` + keySchema + `, "_meta": {"type": "object"}}, "required": ["key"], "additionalProperties": false}`
	putParams   = `{"type": "object", "properties": {
		"set": {"type": "object", "minProperties": 1, "maxProperties": 256, "propertyNames": ` + keySchema + `, "additionalProperties": ` + valueSchema + `},
		"if": {"type": "object", "maxProperties": 256, "propertyNames": ` + keySchema + `, "additionalProperties": ` + valueSchema + `},
		"_meta": {"type": "object"}}, "required": ["set"], "additionalProperties": false}`
	listParams = `{"type": "object", "properties": {"prefix": {"type": "string", "maxLength": 512}, "after": {"type": "string", "maxLength": 512}, "_meta": {"type": "object"}}, "additionalProperties": false}`
)

// Stores are the stores of all plugins, in one directory.
type Stores struct {
	dir string
	mu  sync.Mutex
	db  map[string]*bbolt.DB
}

// Open keeps stores in dir (made 0700), each opened at its first use.
func Open(dir string) (*Stores, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of plugins' stores: %w", err)
	}
	return &Stores{dir: dir, db: map[string]*bbolt.DB{}}, nil
}

// New makes the capability.
func (s *Stores) New() capability.Capability {
	return capability.Capability{
		Name: "kv",
		Text: "A transactional store of the plugin's own: text under keys, kept between starts, at most 64 MiB in all, erased with the plugin. " +
			"kv.put changes many keys at once or none; with \"if\" only where those keys have those values.",
		Cost: capability.Disk, Phases: capability.Always(),
		Methods: []capability.Method{
			{Name: "kv.get", Text: "gives a value, or null", Params: getParams, Result: valueSchema, Serve: s.get},
			{Name: "kv.put", Text: "sets keys, in one transaction; null takes a key away", Params: putParams, Result: `{"type": "object"}`, Serve: s.put},
			{Name: "kv.list", Text: "lists up to 1000 keys with a prefix, in order", Params: listParams, Result: `{"type": "object"}`, Serve: s.list},
		},
		Closed: s.close, Forget: s.forget,
	}
}

// store opens a plugin's store, or gives the open one.
func (s *Stores) store(plugin string) (*bbolt.DB, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if db := s.db[plugin]; db != nil {
		return db, nil
	}
	db, err := bbolt.Open(s.path(plugin), 0o600, &bbolt.Options{Timeout: lockFor})
	if err != nil {
		return nil, fmt.Errorf("cannot open the store of %s: %w", plugin, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, errKV := tx.CreateBucketIfNotExists(bucket)
		_, errMeta := tx.CreateBucketIfNotExists(meta)
		return errors.Join(errKV, errMeta)
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s.db[plugin] = db
	return db, nil
}

// path is safe: a plugin's name has no slash and begins with no dot.
func (s *Stores) path(plugin string) string { return filepath.Join(s.dir, plugin+".db") }

func (s *Stores) close(plugin string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	db := s.db[plugin]
	delete(s.db, plugin)
	if db == nil {
		return nil
	}
	return db.Close()
}

func (s *Stores) forget(plugin string) error {
	err := s.close(plugin)
	if gone := os.Remove(s.path(plugin)); gone != nil && !errors.Is(gone, os.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

func (s *Stores) get(_ context.Context, c *capability.Call) (any, error) {
	var p struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(c.Params, &p); err != nil {
		return nil, err
	}
	db, err := s.store(c.Plugin)
	if err != nil {
		return nil, err
	}
	var value *string
	err = db.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bucket).Get([]byte(p.Key)); v != nil {
			text := string(v)
			value = &text
		}
		return nil
	})
	if err == nil && value != nil {
		err = c.Spend(int64(len(*value)))
	}
	return value, err
}

type change struct {
	Set map[string]*string `json:"set"`
	If  map[string]*string `json:"if"`
}

// put is one transaction; bbolt has synced it when it returns.
func (s *Stores) put(_ context.Context, c *capability.Call) (any, error) {
	var p change
	if err := json.Unmarshal(c.Params, &p); err != nil {
		return nil, err
	}
	total := int64(0)
	for k, v := range p.Set {
		total += int64(len(k))
		if v != nil {
			total += int64(len(*v))
		}
	}
	if err := c.Spend(total); err != nil {
		return nil, err
	}
	db, err := s.store(c.Plugin)
	if err != nil {
		return nil, err
	}
	if err := db.Update(p.apply); err != nil {
		return nil, err
	}
	return struct{}{}, nil
}

func (p change) apply(tx *bbolt.Tx) error {
	b, size := tx.Bucket(bucket), sizeOf(tx)
	for k, want := range p.If {
		have := b.Get([]byte(k))
		if (want == nil) != (have == nil) || want != nil && *want != string(have) {
			return ipc.Errorf(ipc.CodeConflict, "cannot put: %.64q has another value", k)
		}
	}
	for k, v := range p.Set {
		if old := b.Get([]byte(k)); old != nil {
			size -= int64(len(k) + len(old))
		}
		var err error
		if v == nil {
			err = b.Delete([]byte(k))
		} else {
			size += int64(len(k) + len(*v))
			err = b.Put([]byte(k), []byte(*v))
		}
		if err != nil {
			return err
		}
	}
	if size > maxSize {
		return ipc.Errorf(ipc.CodeOverloaded, "cannot put: the store would hold more than %d bytes", maxSize)
	}
	text, err := json.Marshal(size)
	if err != nil {
		return err
	}
	return tx.Bucket(meta).Put(keySize, text)
}

func sizeOf(tx *bbolt.Tx) (n int64) {
	if text := tx.Bucket(meta).Get(keySize); text != nil {
		_ = json.Unmarshal(text, &n) // written by apply
	}
	return n
}

func (s *Stores) list(_ context.Context, c *capability.Call) (any, error) {
	var p struct {
		Prefix string `json:"prefix"`
		After  string `json:"after"`
	}
	if len(c.Params) > 0 {
		if err := json.Unmarshal(c.Params, &p); err != nil {
			return nil, err
		}
	}
	db, err := s.store(c.Plugin)
	if err != nil {
		return nil, err
	}
	out := struct {
		Keys []string `json:"keys"`
		More bool     `json:"more"`
		Size int64    `json:"size_bytes"`
		Max  int64    `json:"max_bytes"`
	}{Keys: []string{}, Max: maxSize}
	err = db.View(func(tx *bbolt.Tx) error {
		out.Size = sizeOf(tx)
		cursor := tx.Bucket(bucket).Cursor()
		from := max(p.Prefix, p.After)
		for k, _ := cursor.Seek([]byte(from)); k != nil && bytes.HasPrefix(k, []byte(p.Prefix)); k, _ = cursor.Next() {
			if p.After != "" && string(k) <= p.After {
				continue
			}
			if len(out.Keys) == maxList {
				out.More = true
				break
			}
			out.Keys = append(out.Keys, string(k))
		}
		return nil
	})
	return out, err
}
