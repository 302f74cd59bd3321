// Package ipc is the only door in a plugin's wall: JSON-RPC 2.0, symmetric,
// over a unix socket or stdio, in three framings. It is written for a hostile
// peer: every size is checked before anything is allocated, every queue is
// bounded, and breaking the protocol ends the connection with a named cause.
// PROTOCOL.md is the specification.
package ipc

import "time"

// Protocol fixes transport, framing and handshake of a connection.
type Protocol string

// The protocols a manifest may name.
const (
	// ProtocolCordon is a 4-byte big-endian length before each message, over
	// the socket that the plugin finds at descriptor 3; hello is ours.
	ProtocolCordon Protocol = "cordon"
	// ProtocolMCP is newline-delimited JSON over stdio; initialize is the hello.
	ProtocolMCP Protocol = "mcp"
	// ProtocolLSP is Content-Length framing over stdio; initialize is the hello.
	ProtocolLSP Protocol = "lsp"
	// ProtocolJSONRPC is newline-delimited JSON-RPC over stdio without a hello.
	ProtocolJSONRPC Protocol = "jsonrpc"
)

// Limits bound one connection. The zero value of a field means its default.
type Limits struct {
	// MaxFrame is the largest message in bytes, either way (default 4 MiB, at
	// least 1 KiB, at most 16 MiB - 1).
	MaxFrame int `json:"max_frame,omitempty"`
	// MaxInFlight is how many requests of one side may be unanswered (default 64).
	MaxInFlight int `json:"max_in_flight,omitempty"`
	// MaxQueue is how many bytes may wait to be written (default 2 x MaxFrame).
	MaxQueue int `json:"max_queue,omitempty"`
	// MaxDepth is how deep a message may nest (default 64).
	MaxDepth int `json:"max_depth,omitempty"`
	// Rate is how many messages a second the peer may send, with a burst of as
	// many (default 10000).
	Rate int `json:"rate,omitempty"`
	// HelloTimeout is how long the peer may take to say hello (default 10 s).
	HelloTimeout time.Duration `json:"hello_timeout,omitempty"`
	// HalfOpen is how long a started message may stay unfinished (default 10 s).
	HalfOpen time.Duration `json:"half_open,omitempty"`
	// CallTimeout is the deadline of a call whose caller names none (default 30 s).
	CallTimeout time.Duration `json:"call_timeout,omitempty"`
	// CancelGrace is how long the peer may take to answer a call that was
	// cancelled at its deadline, where its protocol wants an answer (default 10 s,
	// negative for ever). Nothing that it says or does meanwhile counts.
	CancelGrace time.Duration `json:"cancel_grace,omitempty"`
	// WriteStall is how long the peer may leave what is sent to it unread while
	// more waits (default 30 s).
	WriteStall time.Duration `json:"write_stall,omitempty"`
	// MaxDescriptors is how many file descriptors of the peer one message may
	// carry, and handlers may hold at once (default 8, at most 253, negative for
	// none). They travel on ProtocolCordon alone.
	MaxDescriptors int `json:"max_descriptors,omitempty"`
	// Strays is how many lines that are no message a program on newline framing
	// may print to its standard output (default 64, negative for none).
	Strays int `json:"strays,omitempty"`
}

// smallestFrame is the least MaxFrame, so that every error answer fits.
const smallestFrame = 1024

// deepest bounds MaxDepth, so that a recursive reader is safe on any stack.
const deepest = 1000

// WithDefaults returns the limits in force: defaults filled in, and what is
// beyond the protocol's own bounds brought down to them.
func (l Limits) WithDefaults() Limits {
	l.MaxFrame = max(smallestFrame, min(orDefault(l.MaxFrame, 4<<20), frameCeiling))
	l.MaxInFlight = orDefault(l.MaxInFlight, 64)
	l.MaxQueue = orDefault(l.MaxQueue, 2*l.MaxFrame)
	l.MaxDepth = min(orDefault(l.MaxDepth, 64), deepest)
	l.Rate = orDefault(l.Rate, 10000)
	l.HelloTimeout = orDefault(l.HelloTimeout, 10*time.Second)
	l.HalfOpen = orDefault(l.HalfOpen, 10*time.Second)
	l.CallTimeout = orDefault(l.CallTimeout, 30*time.Second)
	if l.CancelGrace == 0 {
		l.CancelGrace = 10 * time.Second
	}
	l.WriteStall = orDefault(l.WriteStall, 30*time.Second)
	if l.MaxDescriptors == 0 {
		l.MaxDescriptors = 8
	}
	l.MaxDescriptors = min(l.MaxDescriptors, maxDescriptors)
	if l.Strays == 0 {
		l.Strays = 64
	}
	return l
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}
