// Command ledger is a plugin that owns nothing: it remembers what documents
// said, and tells when one says something else.
//
// The documents, the key and the ledger itself are all the host's. Build it with
// CGO_ENABLED=0: static, it needs no file of the host.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"

	cordon "github.com/cordonhq/cordon/sdk/go"
)

type document struct {
	Path string `json:"path"`
}

type entry struct {
	Seal string `json:"seal"`
	// Known says that the document was entered before, Same that it says what it
	// said then.
	Known bool `json:"known"`
	Same  bool `json:"same"`
}

func main() {
	p := cordon.New("ledger", "1.0.0")
	cordon.Handle(p, "ledger.enter", enter)
	p.Main()
}

// enter seals a document and puts the seal into the ledger.
func enter(ctx context.Context, d document) (entry, error) {
	host := cordon.Host(ctx)
	key, err := host.Secret(ctx, "ledger-key")
	if err != nil {
		return entry{}, err
	}
	f, err := host.Open(ctx, d.Path)
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	mac := hmac.New(sha256.New, key)
	if _, err := io.Copy(mac, f); err != nil {
		return entry{}, err
	}
	seal := hex.EncodeToString(mac.Sum(nil))
	before, err := host.Get(ctx, d.Path)
	if err != nil {
		return entry{}, err
	}
	if err := host.Put(ctx, map[string]*string{d.Path: &seal}); err != nil {
		return entry{}, err
	}
	return entry{Seal: seal, Known: before != nil, Same: before != nil && *before == seal}, nil
}
