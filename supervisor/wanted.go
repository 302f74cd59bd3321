package supervisor

import "sync"

// wanted are the digests of bundles that no record has, and that are not to be
// discarded all the same, each with how often.
type wanted struct {
	mu sync.Mutex
	n  map[string]int
}

func (w *wanted) add(digest string, by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n == nil {
		w.n = map[string]int{}
	}
	if w.n[digest] += by; w.n[digest] <= 0 {
		delete(w.n, digest)
	}
}

func (w *wanted) has(digest string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n[digest] > 0
}
