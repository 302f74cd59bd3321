package control

import (
	"bytes"
	"encoding/json"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/violation"
)

// decode reads the params of a request. Unknown members are an error, so that a
// newer client is told and not misunderstood; duplicate ones do not get here.
func decode[P any](raw json.RawMessage) (P, error) {
	var p P
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, Errorf(ipc.CodeInvalidParams, "", "cannot read the parameters: %s", violation.Escape(err.Error(), 256))
	}
	return p, nil
}
