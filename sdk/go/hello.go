package cordon

import (
	"encoding/json"
)

// apiVersion is the version of the protocol that this package speaks.
const apiVersion = 1

// hello answers the host's first call.
func (c *Conn) hello(id []byte, params json.RawMessage) error {
	if c.greeted {
		return c.reply(id, nil, Errorf(CodeInvalidRequest, "the hello was said before"))
	}
	var p struct {
		API    int    `json:"api"`
		APIMin int    `json:"api_min"`
		Limits limits `json:"limits"`
	}
	err := json.Unmarshal(params, &p)
	switch {
	case err != nil || p.API == 0:
		_ = c.reply(id, nil, Errorf(CodeInvalidParams, "cannot use this hello: it has no versions"))
		return breach(BreachHello, "a hello without versions")
	case p.API < apiVersion || p.APIMin > apiVersion:
		_ = c.reply(id, nil, Errorf(CodeUnsupported, "this plugin speaks API %d, the host %d to %d", apiVersion, p.APIMin, p.API))
		return breach(BreachHello, "the host speaks API %d to %d, this plugin %d", p.APIMin, p.API, apiVersion)
	}
	c.obey(p.Limits)
	c.greeted = true
	return c.reply(id, map[string]any{"api": apiVersion, "name": c.plugin.name, "version": c.plugin.version, "descriptors": c.inlet.kinds()}, nil)
}
