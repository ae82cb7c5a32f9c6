// Package conformance checks whether a [certmagic.Storage] keeps certmagic's contract, and meets this
// module's further requirements.
package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// A Check is one requirement on a storage.
type Check struct {
	Name string // in a few words

	// Without says what does not work on a storage that fails the check. It is empty for a requirement of
	// certmagic that this module does not depend on.
	Without string

	// IsSlight says that the consequence is only a delay, or rare and cured by another login.
	IsSlight bool

	run func(*checker) error
}

// Checks are all checks. They leave nothing in the storage, and each takes some seconds at most.
var Checks = []Check{
	{
		Name: "a value that was stored can be loaded", run: (*checker).values,
		Without: "nobody can sign in",
	},
	{
		Name: "a value of 128 KiB can be stored", run: (*checker).large,
		Without: "sessions with large tokens cannot be kept",
	},
	{
		Name: "names of all kinds stay apart", run: (*checker).names,
		Without: "sessions are taken for one another, or cannot be kept",
	},
	{
		Name: "loading a missing key fails with fs.ErrNotExist", run: (*checker).missing,
		Without: "no sealing key is made, so nobody can sign in; a session whose record is gone answers 503",
	},
	{
		Name: "what one instance has stored or deleted, another sees at once", run: (*checker).shared,
		Without: "several instances send codes and refresh tokens twice, and lose sessions that another has renewed",
	},
	{
		Name: "a listing shows what was stored", run: (*checker).read,
		Without: "codes cannot be used, so nobody can sign in, and no instance learns of a logout at another",
	},
	{
		Name: "of several that take a lock at once, one gets it", run: (*checker).exclude, IsSlight: true,
		Without: "several instances that start at once on an empty storage may make two sealing keys, " +
			"and some people have to sign in once more",
	},
	{
		Name: "a lock that is held is waited for, and got when it is released", run: (*checker).wait, IsSlight: true,
		Without: "while one instance renews a session, a request of the same session at another may take " +
			"seconds longer",
	},
	{
		Name: "a lock ends its waiting with its context", run: (*checker).patience, IsSlight: true,
		Without: "calls that wait for a lock in vain pile up, 128 of them at the most; " +
			"with some engines, each of them keeps a processor busy",
	},
	{Name: "an instance does not get a lock twice", run: (*checker).twice},
	{Name: "a recursive listing shows all keys below a folder, and no others", run: (*checker).recursive},
	{Name: "a listing that is not recursive shows what lies in a folder, and no more", run: (*checker).flat},
	{Name: "Stat tells a key's size, and a missing one by fs.ErrNotExist", run: (*checker).stat},
	{Name: "Exists tells keys and folders from what is missing", run: (*checker).exists},
	{Name: "deleting a missing key is no error", run: (*checker).deleteMissing},
	{Name: "deleting a folder deletes what is in it", run: (*checker).deleteFolder},
}

// Result is the result of a check.
type Result struct {
	Check
	Err error // nil: the storage meets the requirement
}

// Run makes all checks of a storage. a and b are the values of two instances for it. All keys are below a folder
// with a new name.
func Run(ctx context.Context, a, b certmagic.Storage) []Result {
	var results []Result
	for _, check := range Checks {
		results = append(results, Result{check, check.Run(ctx, a, b)})
	}
	return results
}

// Run makes the check.
func (c Check) Run(ctx context.Context, a, b certmagic.Storage) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	r := &checker{ctx: ctx, a: a, b: b, root: "aventus_auth_check_" + strings.ToLower(rand.Text()[:16])}
	done := make(chan error, 1)
	go func() {
		err := withoutPanic(func() error { return c.run(r) })
		_ = withoutPanic(r.clean)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(checkTimeout + cleanTimeout): // an engine may ignore its context
		return fmt.Errorf("no answer within %s", checkTimeout+cleanTimeout)
	}
}

func withoutPanic(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

const (
	checkTimeout = 10 * time.Second
	cleanTimeout = 5 * time.Second

	// refused is how long a held lock must not be acquired by another. Engines that poll do so once a second.
	refused = 500 * time.Millisecond

	// polled is longer than the time in which polling engines notice that a lock is free.
	polled = 4 * time.Second
)

// checker makes one check.
type checker struct {
	ctx  context.Context
	a, b certmagic.Storage
	root string // of all its keys

	mu     sync.Mutex
	stored []string
}

func (r *checker) key(name string) string { return path.Join(r.root, name) }

func (r *checker) store(s certmagic.Storage, key string, value []byte) error {
	r.mu.Lock()
	r.stored = append(r.stored, key)
	r.mu.Unlock()
	if err := s.Store(r.ctx, key, value); err != nil {
		return fmt.Errorf("storing: %w", err)
	}
	return nil
}

func (r *checker) expect(s certmagic.Storage, key string, want []byte) error {
	got, err := s.Load(r.ctx, key)
	if err != nil {
		return fmt.Errorf("loading: %w", err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("of %d bytes that were stored, %d others came back", len(want), len(got))
	}
	return nil
}

// expectMissing returns an error unless err says that the key is missing.
func expectMissing(doing string, err error) error {
	switch {
	case err == nil:
		return fmt.Errorf("%s: it is there", doing)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// clean deletes all stored keys, and their folders, the deepest first.
func (r *checker) clean() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), cleanTimeout)
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	folders := make(map[string]bool)
	for _, key := range r.stored {
		_ = r.a.Delete(ctx, key)
		for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
			folders[dir] = true
		}
	}
	deepest := make([]string, 0, len(folders))
	for dir := range folders {
		deepest = append(deepest, dir)
	}
	slices.SortFunc(deepest, func(a, b string) int { return len(b) - len(a) })
	for _, dir := range deepest {
		_ = r.a.Delete(ctx, dir) // for engines with folders
	}
	return nil
}

func (r *checker) values() error {
	key := r.key("value")
	for _, value := range [][]byte{[]byte("first"), {0, 255, '\n', 0}, []byte("a longer one than those before")} {
		if err := r.store(r.a, key, value); err != nil {
			return err
		}
		if err := r.expect(r.a, key, value); err != nil {
			return err
		}
	}
	if err := r.a.Delete(r.ctx, key); err != nil {
		return fmt.Errorf("deleting: %w", err)
	}
	if _, err := r.a.Load(r.ctx, key); err == nil {
		return errors.New("loading what was deleted: it is there")
	}
	return nil
}

func (r *checker) large() error {
	value := make([]byte, 128<<10)
	_, _ = rand.Read(value) // never fails (crypto/rand)
	if err := r.store(r.a, r.key("large"), value); err != nil {
		return err
	}
	return r.expect(r.a, r.key("large"), value)
}

func (r *checker) names() error {
	names := []string{
		"1", "10", "100/1", "1_0/keys.json", "wildcard_.example.com.crt",
		"498765/1799999999-" + strings.Repeat("0f", 16) + "-0", "498765/" + strings.Repeat("f0", 16),
	}
	for _, name := range names {
		if err := r.store(r.a, r.key(name), []byte(name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, name := range names {
		if err := r.expect(r.a, r.key(name), []byte(name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (r *checker) missing() error {
	_, err := r.a.Load(r.ctx, r.key("missing"))
	if err := expectMissing("loading", err); err != nil {
		return err
	}
	_, err = r.a.Load(r.ctx, r.key("no/such/folder"))
	return expectMissing("loading from a folder that does not exist", err)
}

func (r *checker) shared() error {
	key := r.key("shared")
	_, _ = r.b.Load(r.ctx, key) // a cache may also remember that it is missing
	for _, value := range []string{"first", "second"} {
		if err := r.store(r.a, key, []byte(value)); err != nil {
			return err
		}
		if err := r.expect(r.b, key, []byte(value)); err != nil {
			return fmt.Errorf("at another instance: %w", err)
		}
	}
	if err := r.a.Delete(r.ctx, key); err != nil {
		return fmt.Errorf("deleting: %w", err)
	}
	if _, err := r.b.Load(r.ctx, key); err == nil {
		return errors.New("loading at another instance what was deleted: it is there")
	}
	return nil
}

// tree stores some keys in two folders whose names begin alike.
func (r *checker) tree() error {
	for _, name := range []string{"place/1/a", "place/1/b", "place/2/c", "place/d", "placelike/1/e"} {
		if err := r.store(r.a, r.key(name), []byte("v")); err != nil {
			return err
		}
	}
	return nil
}

// read checks listings as this module reads them.
func (r *checker) read() error {
	if err := r.tree(); err != nil {
		return err
	}
	want := []string{"place/1/a", "place/1/b", "place/2/c", "place/d"}
	for i := range want {
		want[i] = r.key(want[i])
	}
	for _, s := range []certmagic.Storage{r.a, r.b} {
		keys, err := records.List(r.ctx, s, r.key("place"))
		if err != nil {
			return fmt.Errorf("listing: %w", err)
		}
		for _, key := range want {
			if !slices.Contains(keys, key) {
				return fmt.Errorf("%d of %d keys are shown", len(intersection(keys, want)), len(want))
			}
		}
	}
	return nil
}

func intersection(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}

// take acquires a lock, with a time limit.
func (r *checker) take(s certmagic.Storage, name string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	return lockWithin(ctx, s, name)
}

// lockWithin acquires a lock before ctx ends, whether the engine observes ctx or not. If the engine acquires the
// lock later, it is released.
func lockWithin(ctx context.Context, s certmagic.Storage, name string) error {
	held := context.WithoutCancel(ctx) // some engines keep a lock for as long as its context lives
	done := make(chan error)
	trying, giveUp := context.WithCancel(held)
	stop := context.AfterFunc(ctx, giveUp)
	go func() {
		err := s.Lock(trying, name)
		select {
		case done <- err:
		case <-ctx.Done():
			if err == nil {
				_ = s.Unlock(held, name)
			}
		}
	}()
	select {
	case err := <-done:
		if err == nil && !stop() {
			_ = s.Unlock(held, name)
			return ctx.Err()
		}
		if err != nil {
			giveUp()
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *checker) exclude() error {
	got := make([]int, 3)
	var rounds sync.WaitGroup
	for round := range got {
		rounds.Go(func() { got[round] = r.takeAtOnce(r.key(fmt.Sprint("at-once-", round)), refused) })
	}
	rounds.Wait()
	if slices.Contains(got, 0) { // some engines need longer to take a lock at all
		got = append(got, r.takeAtOnce(r.key("at-once"), polled))
	}
	switch {
	case slices.Contains(got, 2):
		return errors.New("two instances hold it")
	case got[len(got)-1] == 0:
		return errors.New("neither of two instances got it")
	}
	return nil
}

// takeAtOnce has two instances acquire a lock concurrently, and returns how many succeeded.
func (r *checker) takeAtOnce(name string, patience time.Duration) (holders int) {
	got := make([]bool, 2)
	var wait sync.WaitGroup
	start := make(chan struct{})
	for i, s := range []certmagic.Storage{r.a, r.b} {
		wait.Go(func() {
			<-start
			got[i] = r.take(s, name, patience) == nil
		})
	}
	close(start)
	wait.Wait()
	for i, s := range []certmagic.Storage{r.a, r.b} {
		if got[i] {
			holders++
			_ = s.Unlock(r.ctx, name)
		}
	}
	return holders
}

func (r *checker) wait() error {
	name := r.key("waited-for")
	if err := r.take(r.a, name, polled); err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	got := make(chan error, 1)
	go func() { got <- r.take(r.b, name, refused+polled) }()
	select {
	case err := <-got:
		_ = r.a.Unlock(r.ctx, name)
		if err == nil {
			_ = r.b.Unlock(r.ctx, name)
			return errors.New("another instance gets it while it is held")
		}
		return fmt.Errorf("another instance is refused it: %w", err)
	case <-time.After(refused):
	}
	if err := r.a.Unlock(r.ctx, name); err != nil {
		return fmt.Errorf("unlocking: %w", err)
	}
	if err := <-got; err != nil {
		return fmt.Errorf("it is not got within %s of its release: %w", polled, err)
	}
	if err := r.b.Unlock(r.ctx, name); err != nil {
		return fmt.Errorf("unlocking: %w", err)
	}
	return nil
}

func (r *checker) patience() error {
	name := r.key("given-up")
	if err := r.take(r.a, name, polled); err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	defer func() { _ = r.a.Unlock(r.ctx, name) }()
	ctx, cancel := context.WithTimeout(r.ctx, refused)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.b.Lock(ctx, name) }()
	select {
	case err := <-done:
		if err == nil {
			_ = r.b.Unlock(r.ctx, name)
			return errors.New("another instance gets it while it is held")
		}
		return nil
	case <-time.After(refused + polled/2):
		go func() { // when it is got at last
			if <-done == nil {
				_ = r.b.Unlock(context.WithoutCancel(r.ctx), name)
			}
		}()
		return fmt.Errorf("it is waited for %s after the end of the context", polled/2)
	}
}

func (r *checker) twice() error {
	name := r.key("twice")
	if err := r.take(r.a, name, polled); err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	defer func() { _ = r.a.Unlock(r.ctx, name) }()
	if r.take(r.a, name, refused) == nil {
		_ = r.a.Unlock(r.ctx, name)
		return errors.New("it gets it twice")
	}
	return nil
}

// lists compares a listing, of which folders may be a part.
func (r *checker) lists(dir string, recursive bool, want, folders []string) error {
	if err := r.tree(); err != nil {
		return err
	}
	keys, err := r.a.List(r.ctx, r.key(dir), recursive)
	if err != nil {
		return fmt.Errorf("listing: %w", err)
	}
	shown := make(map[string]bool)
	for _, key := range keys {
		name, ok := strings.CutPrefix(key, r.root+"/")
		if !ok || !slices.Contains(want, name) && !slices.Contains(folders, name) {
			return fmt.Errorf("%q is shown", strings.Replace(key, r.root, "…", 1))
		}
		shown[name] = true
	}
	for _, name := range want {
		if !shown[name] {
			return fmt.Errorf("%q is not shown", "…/"+name)
		}
	}
	return nil
}

func (r *checker) recursive() error {
	return r.lists("place", true,
		[]string{"place/1/a", "place/1/b", "place/2/c", "place/d"}, []string{
			"place/1", "place/2", "place/1/", "place/2/",
		})
}

func (r *checker) flat() error {
	if err := r.lists("place/1", false, []string{"place/1/a", "place/1/b"}, nil); err != nil {
		return err
	}
	// Whether folders are shown is left to the engine.
	return r.lists("place", false, []string{"place/d"}, []string{"place/1", "place/2", "place/1/", "place/2/"})
}

func (r *checker) stat() error {
	if err := r.store(r.a, r.key("stat"), []byte("twelve bytes")); err != nil {
		return err
	}
	info, err := r.a.Stat(r.ctx, r.key("stat"))
	switch {
	case err != nil:
		return err
	case info.Key != r.key("stat"):
		return fmt.Errorf("it is said to be %q", info.Key)
	case !info.IsTerminal:
		return errors.New("it is said to be a folder")
	case info.Size != 0 && info.Size != 12: // 0: not told
		return fmt.Errorf("it is said to have %d bytes, and has 12", info.Size)
	}
	_, err = r.a.Stat(r.ctx, r.key("missing"))
	return expectMissing("a missing key", err)
}

func (r *checker) exists() error {
	if err := r.store(r.a, r.key("folder/exists"), []byte("v")); err != nil {
		return err
	}
	for name, want := range map[string]bool{"folder/exists": true, "folder": true, "missing": false} {
		if r.a.Exists(r.ctx, r.key(name)) != want {
			return fmt.Errorf("%s: %t", name, !want)
		}
	}
	return nil
}

func (r *checker) deleteMissing() error { return r.a.Delete(r.ctx, r.key("missing")) }

func (r *checker) deleteFolder() error {
	if err := r.tree(); err != nil {
		return err
	}
	if err := r.a.Delete(r.ctx, r.key("place")); err != nil {
		return err
	}
	if _, err := r.a.Load(r.ctx, r.key("place/1/a")); err == nil {
		return errors.New("a key in it is there")
	}
	return r.expect(r.a, r.key("placelike/1/e"), []byte("v"))
}
