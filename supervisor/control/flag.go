package control

import "time"

// The methods about feature flags.
const (
	MethodFlags = "flag.list" // {} -> []Flag
	MethodFlag  = "flag.set"  // FlagParams -> Flagged
)

// Flag is a feature flag of the configuration, as it stands.
type Flag struct {
	Name string `json:"name"`
	On   bool   `json:"on"`
	// Plugins and Capabilities are what it gates: the capabilities of these plugins,
	// or these plugins themselves. No plugins are all.
	Plugins      []string `json:"plugins,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
	// Configured is what the configuration says. By and Time are of the operator who
	// says otherwise, or the same; empty if none does.
	Configured bool      `json:"configured"`
	By         string    `json:"by,omitempty"`
	Time       time.Time `json:"time,omitzero"`
}

// The words of FlagParams.State.
const (
	FlagOn      = "on"
	FlagOff     = "off"
	FlagDefault = "default" // what the configuration says
)

// FlagParams flips a flag.
type FlagParams struct {
	Name  string `json:"name"`
	State string `json:"state"`
}

// Flagged says what came of it.
type Flagged struct {
	Flag Flag `json:"flag"`
	// Stopped are the gated plugins that were stopped; Cut is how many connections
	// were cut.
	Stopped []string `json:"stopped,omitempty"`
	Cut     int      `json:"cut"`
}
