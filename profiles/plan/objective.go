package plan

import (
	"fmt"
	"slices"
	"time"
)

// Objective is what is promised of a plugin's calls. Without an objective there
// is no promise.
type Objective struct {
	// Objective is the share of calls that must be good, in thousandths.
	Objective int64 `json:"objective,omitempty"`
	// Latency is above which a call is bad; 0 is however slow.
	Latency time.Duration `json:"latency,omitempty"`
	// Window is over how long the share is taken.
	Window time.Duration `json:"window,omitempty"`
	// BurnRate is how many times faster than evenly the error budget may be used
	// up within a twelfth of the window; MinCalls is of how few calls nothing is
	// concluded.
	BurnRate int `json:"burn_rate,omitempty"`
	MinCalls int `json:"min_calls,omitempty"`
	// Essential are the methods that are served when the plugin is degraded; none
	// is all.
	Essential []string `json:"essential,omitempty"`
}

// Set says whether there is an objective.
func (o Objective) Set() bool { return o.Objective > 0 && o.Window > 0 }

// Equal compares two.
func (o Objective) Equal(p Objective) bool {
	return o.Objective == p.Objective && o.Latency == p.Latency && o.Window == p.Window && o.BurnRate == p.BurnRate &&
		o.MinCalls == p.MinCalls && slices.Equal(o.Essential, p.Essential)
}

// Allowed is the share of calls that may be bad.
func (o Objective) Allowed() float64 { return float64(1000-o.Objective) / 1000 }

// Percent is the objective as it is written.
func (o Objective) Percent() string {
	if o.Objective%10 == 0 {
		return fmt.Sprintf("%d%%", o.Objective/10)
	}
	return fmt.Sprintf("%d.%d%%", o.Objective/10, o.Objective%10)
}
