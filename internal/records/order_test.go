package records

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWritesInTurn: a write that was given up on is carried out before the next one of its key, so that
// what was written last stays; and one that was given up on before its turn is not carried out, neither
// at once nor after the writes that follow.
func TestWritesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newStorage(t)
		s := NewShelf(Bounded(storage, nil), "shelf", newClock().steady())
		expires := newClock().Now()
		var late atomic.Bool
		storage.on(func(method, key string) error {
			if method == "Store" && key == s.key("a", expires) && !late.Swap(true) {
				time.Sleep(8 * time.Second)
			}
			return nil
		})
		put := func(id, value string) error { return s.Put(t.Context(), id, expires, []byte(value)) }
		isSettled := func() bool {
			select {
			case <-s.Settled("a", expires):
				return true
			default:
				return false
			}
		}
		if err := put("a", "1"); err == nil { // five seconds
			t.Error("no write is given up on")
		}
		if isSettled() {
			t.Error("the write that was given up on counts as settled")
		}
		if err := put("b", "another"); err != nil {
			t.Errorf("another key waits: %v", err)
		}
		if err := put("a", "2"); err != nil {
			t.Errorf("the next write: %v", err)
		}
		synctest.Wait()
		if value, err := s.Get(t.Context(), "a", expires); string(value) != "2" || err != nil || !isSettled() {
			t.Errorf("what stays is %q, error %v; settled %v", value, err, isSettled())
		}

		late.Store(false)
		storage.on(func(method, key string) error {
			if method == "Store" && key == s.key("a", expires) && !late.Swap(true) {
				time.Sleep(time.Minute)
			}
			return nil
		})
		for _, value := range []string{"3", "4"} {
			if err := put("a", value); err == nil {
				t.Errorf("%s is written", value)
			}
		}
		<-s.Settled("a", expires)
		if value, err := s.Get(t.Context(), "a", expires); string(value) != "3" || err != nil {
			t.Errorf("what stays is %q, error %v", value, err)
		}

		began := time.Now()
		storage.on(func(method, key string) error {
			if method == "Store" && key == s.key("a", expires) && time.Since(began) < 11*time.Second {
				time.Sleep(12 * time.Second)
			}
			return nil
		})
		for _, value := range []string{"5", "6"} { // the other one is given up on two seconds before its turn
			if err := put("a", value); err == nil {
				t.Errorf("%s is written", value)
			}
		}
		if err := put("a", "7"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if value, err := s.Get(t.Context(), "a", expires); string(value) != "7" || err != nil {
			t.Errorf("what stays in the end is %q, error %v", value, err)
		}
	})
}
