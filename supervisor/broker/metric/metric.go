// Package metric is the capability metric: counters and gauges under names of
// the plugin's own.
package metric

import (
	"context"
	"encoding/json"
	"maps"
	"math"
	"sync"

	"github.com/cordonhq/cordon/ipc"
	"github.com/cordonhq/cordon/supervisor/broker/capability"
)

// maxSeries bounds what one plugin may name.
const maxSeries = 256

const params = `{
  "type": "object",
  "properties": {
    "name": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,63}$"},
    "value": {"type": "number"},
    "_meta": {"type": "object"}
  },
  "required": ["name", "value"],
  "additionalProperties": false
}`

// Store keeps the metrics of all plugins. The zero value is not usable.
type Store struct {
	mu      sync.Mutex
	plugins map[string]map[string]float64
}

// NewStore makes an empty one.
func NewStore() *Store { return &Store{plugins: map[string]map[string]float64{}} }

// Values are a plugin's metrics by name.
func (s *Store) Values(plugin string) map[string]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.plugins[plugin])
}

// New makes the capability over s.
func New(s *Store) capability.Capability {
	return capability.Capability{
		Name: "metric",
		Text: "Counts and measures under names of the plugin's own, at most 256; cordon capability list NAME shows them. They begin anew with the daemon.",
		Cost: capability.Memory, Phases: capability.Always(),
		Methods: []capability.Method{
			{Name: "metric.add", Text: "adds to a counter; value is at least 0", Params: params, Result: `{"type": "null"}`, Serve: s.serve(add), Summed: true},
			{Name: "metric.set", Text: "sets a gauge", Params: params, Result: `{"type": "null"}`, Serve: s.serve(set), Summed: true},
		},
		Forget: s.forget,
	}
}

func (s *Store) forget(plugin string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.plugins, plugin)
	return nil
}

func add(have, value float64) (float64, bool) { return have + value, value >= 0 }
func set(_, value float64) (float64, bool)    { return value, true }

func (s *Store) serve(next func(have, value float64) (float64, bool)) func(context.Context, *capability.Call) (any, error) {
	return func(_ context.Context, c *capability.Call) (any, error) {
		var p struct {
			Name  string  `json:"name"`
			Value float64 `json:"value"`
		}
		if err := json.Unmarshal(c.Params, &p); err != nil {
			return nil, ipc.Errorf(ipc.CodeInvalidParams, "cannot use %s: the value is no number that a double holds", c.Method)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		series := s.plugins[c.Plugin]
		if series == nil {
			series = map[string]float64{}
			s.plugins[c.Plugin] = series
		}
		if _, ok := series[p.Name]; !ok && len(series) >= maxSeries {
			return nil, ipc.Errorf(ipc.CodeOverloaded, "cannot keep metric %s: a plugin has at most %d", p.Name, maxSeries)
		}
		value, ok := next(series[p.Name], p.Value)
		if !ok || math.IsInf(value, 0) {
			return nil, ipc.Errorf(ipc.CodeInvalidParams, "cannot use %s: a counter goes up, and stays finite", c.Method)
		}
		series[p.Name] = value
		return nil, nil //nolint:nilnil // the result is null
	}
}
