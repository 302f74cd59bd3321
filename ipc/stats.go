package ipc

import "sync/atomic"

// counters are what a connection counts.
type counters struct {
	messagesIn, messagesOut, bytesIn, bytesOut       atomic.Uint64
	strays, late, unasked, lateCancels, overloaded   atomic.Uint64
	slowed, descriptors, panics, breaches, unmatched atomic.Uint64
}

// Stats are a connection's counters since it was made.
type Stats struct {
	MessagesIn  uint64 `json:"messages_in"`
	MessagesOut uint64 `json:"messages_out"`
	BytesIn     uint64 `json:"bytes_in"`  // of messages, without framing
	BytesOut    uint64 `json:"bytes_out"` // with framing
	Strays      uint64 `json:"strays"`    // lines that were no message
	// Late are replies to calls that were cancelled before, LateCancels
	// cancellations of requests that were finished or never made.
	Late        uint64 `json:"late"`
	LateCancels uint64 `json:"late_cancels"`
	Unasked     uint64 `json:"unasked"`    // replies that nobody waited for
	Overloaded  uint64 `json:"overloaded"` // requests refused at the gate
	Slowed      uint64 `json:"slowed"`     // messages that waited for the rate
	Descriptors uint64 `json:"descriptors"`
	Panics      uint64 `json:"panics"` // of handlers
	Breaches    uint64 `json:"breaches"`
	// Unmatched are replies of a bridge's clients to requests that were not
	// theirs, or were gone.
	Unmatched uint64 `json:"unmatched"`
}

// Stats returns the counters as they are now.
func (c *Conn) Stats() Stats {
	s := &c.st
	return Stats{
		MessagesIn: s.messagesIn.Load(), MessagesOut: s.messagesOut.Load(),
		BytesIn: s.bytesIn.Load(), BytesOut: s.bytesOut.Load(),
		Strays: s.strays.Load(), Late: s.late.Load(), LateCancels: s.lateCancels.Load(),
		Unasked: s.unasked.Load(), Overloaded: s.overloaded.Load(), Slowed: s.slowed.Load(),
		Descriptors: s.descriptors.Load(), Panics: s.panics.Load(), Breaches: s.breaches.Load(),
		Unmatched: s.unmatched.Load(),
	}
}
