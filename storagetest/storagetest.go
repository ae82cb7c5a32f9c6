// Package storagetest tests storage engines: whether a [certmagic.Storage] keeps certmagic's contract, and meets the
// further requirements of aventus_auth. An engine's own tests can use it:
//
//	func TestStorage(t *testing.T) {
//		storagetest.Test(t, func() certmagic.Storage { return open(t) })
//	}
//
// The doctor (`caddy aventus-auth doctor`) makes these checks of the storage at hand, but for those that aventus_auth
// does without ([Fault.Without] is empty): both listings as such, Stat, Exists, deleting what is missing and folders,
// and a lock taken twice by one instance.
//
// One requirement is left to the engine's own tests, since it takes a process that dies: the lock of a process that
// died must become free, within a minute or so.
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

// A Fault is a requirement that a storage does not meet.
type Fault struct {
	Check string // the requirement, in a few words
	Err   error

	// Without says what does not work in aventus_auth. It is empty if that does not depend on the requirement.
	Without string
}

// Faults makes all checks, and returns those that the storage fails. Programs use it in place of Test.
func Faults(ctx context.Context, a, b certmagic.Storage) []Fault {
	var faults []Fault
	for _, r := range conformance.Run(ctx, a, b) {
		if r.Err != nil {
			faults = append(faults, Fault{r.Name, r.Err, r.Without})
		}
	}
	return faults
}
