// Package sdk carries the source of the SDKs for plugins, so that a bundle can
// have a copy of its own: no plugin needs a package registry.
package sdk

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"
)

// Version is that of the SDKs, which all change together.
const Version = "v0.1.0"

// GoModule is the import path of the SDK for Go.
const GoModule = "github.com/cordonhq/cordon/sdk/go"

// The SDK for Go is a module of its own, which nothing can be embedded from:
// gosdk is a copy of it, and a test says when they differ.
//
//go:embed gosdk/*.go.txt python/cordon.py node/cordon.mjs node/cordon.d.mts
var sources embed.FS

// Languages are those that Files knows, in order.
func Languages() []string { return []string{"go", "node", "python"} }

// Files returns the SDK's own files for a language, by name.
func Files(language string) (map[string][]byte, error) {
	dir := language
	if language == "go" {
		dir = "gosdk"
	}
	entries, err := fs.ReadDir(sources, dir)
	if err != nil {
		return nil, fmt.Errorf("there is no SDK for %q", language)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		data, err := fs.ReadFile(sources, dir+"/"+e.Name())
		if err != nil {
			return nil, fmt.Errorf("cannot read the SDK for %s: %w", language, err)
		}
		files[strings.TrimSuffix(e.Name(), ".txt")] = data
	}
	return files, nil
}
