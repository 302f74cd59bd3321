package control

import "time"

// The methods about capabilities.
const (
	MethodCapabilities = "capability.list"   // NameParams, no name is none -> Capabilities
	MethodGrant        = "capability.grant"  // GrantParams -> Granted
	MethodRevoke       = "capability.revoke" // GrantParams -> Granted
)

// Capability is one thing that the host serves.
type Capability struct {
	Name    string             `json:"name"`
	Text    string             `json:"text"`
	Targets string             `json:"targets"` // what it is granted for: "none", "path", "name" or "place"
	Cost    string             `json:"cost"`
	Phases  []string           `json:"phases"`
	Methods []CapabilityMethod `json:"methods"`
}

// CapabilityMethod is one call of a capability, with its JSON Schemas.
type CapabilityMethod struct {
	Name   string `json:"name"`
	Text   string `json:"text"`
	Params string `json:"params"`
	Result string `json:"result"`
}

// Capabilities is the catalogue, and the grants of the plugin that was named.
type Capabilities struct {
	Catalogue []Capability       `json:"catalogue"`
	Grants    []Use              `json:"grants,omitempty"`
	Metrics   map[string]float64 `json:"metrics,omitempty"`
}

// GrantParams grants or revokes a capability of one plugin. Without a target
// everything of the capability is revoked.
type GrantParams struct {
	Name       string        `json:"name"`
	Capability string        `json:"capability"`
	Target     []string      `json:"target,omitempty"`
	For        time.Duration `json:"for_ns,omitempty"` // of a grant; 0 is without end
}

// Granted says what came of it: what holds now, and how many connections were
// cut.
type Granted struct {
	Grants []Use `json:"grants"`
	Cut    int   `json:"cut"`
}

// Decision is what an operator decided about a plugin beside its profile. Of
// the decisions about one target the newest holds, and all stand above the
// profile.
type Decision struct {
	Capability string    `json:"capability"`
	Target     []string  `json:"target,omitempty"` // none revokes all of it
	Revoked    bool      `json:"revoked,omitempty"`
	By         string    `json:"by"`
	Time       time.Time `json:"time"`
	// Until ends a grant; zero is never.
	Until time.Time `json:"until,omitzero"`
}

// Use is one grant of a plugin, as it is used.
type Use struct {
	Capability string   `json:"capability"`
	Target     []string `json:"target,omitempty"`
	// By is who granted or revoked it: a line of a profile, or an operator.
	By      string    `json:"by"`
	Why     string    `json:"why,omitempty"`
	Until   time.Time `json:"until,omitzero"` // of the lease
	Uses    uint64    `json:"uses"`
	Refused uint64    `json:"refused"` // over the budget
	Bytes   int64     `json:"bytes"`
	Active  int       `json:"active"`
	Revoked bool      `json:"revoked,omitempty"`
}
