// Package storagetest tests storage engines: whether a [certmagic.Storage] does what certmagic asks of it, and what
// aventus_auth needs beyond that. An engine's own tests can use it:
//
//	func TestStorage(t *testing.T) {
//		storagetest.Test(t, func() certmagic.Storage { return open(t) })
//	}
//
// The doctor (`caddy aventus-auth doctor`) makes these checks of the storage at hand, but for those that aventus_auth
// does without ([Fault.Without] is empty): both listings as such, Stat, Exists, deleting what is missing and folders,
// and a lock taken twice by one instance.
//
// One thing is left to the engine's tests, since it takes a process that dies: a lock whose holder has died must pass
// on, within a minute or so.
package storagetest

import (
	"context"
	"testing"

	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/conformance"
)

// Test makes each check as a subtest. It calls open twice, for the values that two instances have of one
// storage. Nothing is left in the storage.
func Test(t *testing.T, open func() certmagic.Storage) {
	a, b := open(), open()
	for _, check := range conformance.Checks {
		t.Run(check.Name, func(t *testing.T) {
			if err := check.Run(t.Context(), a, b); err != nil {
				t.Error(err)
			}
		})
	}
}

// A Fault is what a storage fails at.
type Fault struct {
	Check string // what is asked of it, in a few words
	Err   error

	// Without says what does not work in aventus_auth. It is empty for what that does without.
	Without string
}

// Faults makes all checks, and returns those that the storage fails. It is Test for programs.
func Faults(ctx context.Context, a, b certmagic.Storage) []Fault {
	var faults []Fault
	for _, r := range conformance.Run(ctx, a, b) {
		if r.Err != nil {
			faults = append(faults, Fault{r.Name, r.Err, r.Without})
		}
	}
	return faults
}
