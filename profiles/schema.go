package profiles

import "github.com/cordonhq/cordon/profiles/strict"

// Schema gives the JSON Schema of a profile for editors. Describe gives the
// sentence of a key, dotted as in Keys, or "".
func Schema(describe func(key string) string) map[string]any {
	out := strict.Schema(document{}, describe)
	out["title"] = "A Cordon profile"
	return out
}
