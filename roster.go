package aventusauth

import (
	"slices"
	"sync"
)

// roster is a list to which each block of a config adds itself when it is set up, and which requests read.
type roster[T any] struct {
	mu  sync.RWMutex
	all []T
}

func (ro *roster[T]) join(one T) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	ro.all = append(ro.all, one)
}

// list returns those that have joined by now.
func (ro *roster[T]) list() []T {
	ro.mu.RLock()
	defer ro.mu.RUnlock()
	return slices.Clone(ro.all)
}
