// Package scaffold is what cordon new writes: a plugin that works, with a test
// and its own copy of the SDK.
package scaffold

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordonhq/cordon/sdk"
)

//go:embed python node go contract
var templates embed.FS

// Languages are those that a plugin can be made in.
func Languages() []string { return sdk.Languages() }

// Files returns a new plugin's files by path, for a name that a manifest may
// have.
func Files(language, name string) (map[string][]byte, error) {
	own, err := sdk.Files(language)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for file, data := range own {
		files[place(language, file)] = data
	}
	fill := strings.NewReplacer("@NAME@", name, "@MODULE@", sdk.GoModule, "@VERSION@", sdk.Version)
	for _, dir := range []string{language, "contract"} {
		err := fs.WalkDir(templates, dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(templates, path)
			files[target(language, path)] = []byte(fill.Replace(string(data)))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("cannot read the template for %s: %w", language, err)
		}
	}
	return files, nil
}

// target is where a template's file goes. Those of Go have names that no Go
// tool takes for a part of this program.
func target(language, path string) string {
	path = strings.TrimPrefix(path, language+"/")
	if path == "modules.txt" { // the go command's own name for it
		return "vendor/modules.txt"
	}
	return strings.TrimSuffix(path, ".txt")
}

// place is where a plugin has a file of the SDK.
func place(language, file string) string {
	if language == "go" {
		return "vendor/" + sdk.GoModule + "/" + file
	}
	return file
}

// Write makes dir, which must not be there, with files in it; or nothing.
func Write(dir string, files map[string][]byte) (err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make the plugin's directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		whole := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(whole), 0o755); err != nil {
			return fmt.Errorf("cannot make the plugin's directory: %w", err)
		}
		if err := os.WriteFile(whole, files[path], 0o644); err != nil {
			return fmt.Errorf("cannot write a file of the plugin: %w", err)
		}
	}
	return nil
}
