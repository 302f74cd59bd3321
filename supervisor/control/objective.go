package control

import "time"

// Degraded is what a plugin is that does not keep its objective.
type Degraded struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
	// Serves are the methods that are served meanwhile; none is all.
	Serves []string `json:"serves,omitempty"`
}

// Objective is how a plugin stands to what is promised of its calls.
type Objective struct {
	Objective string        `json:"objective"` // such as "99.9%"
	Window    time.Duration `json:"window_ns"`
	// Calls and Bad are those of the window that are counted.
	Calls int `json:"calls"`
	Bad   int `json:"bad"`
	// Burn is how many times the share that may be bad is: above 1 the error budget
	// is used up. Short is that of the newest twelfth of the window.
	Burn  float64 `json:"burn"`
	Short float64 `json:"burn_short"`
}

// Stage is one of a start: place, verify, resolve, start, hello or warm-up.
type Stage struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took_ns"`
}
