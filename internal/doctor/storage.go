package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventus"
	"github.com/aventus-platform/caddy-aventus-auth/internal/conformance"
	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// storageName names the storage, without its credentials.
func storageName(raw json.RawMessage) string {
	var module struct {
		Name string `json:"module"`
	}
	if json.Unmarshal(raw, &module) != nil || module.Name == "" {
		return "file_system"
	}
	return module.Name
}

// askStorage checks whether the storage works as the module needs it, and whether the sealing keys in it can be used.
func (d *doctor) askStorage(ctx context.Context) {
	name := storageName(d.storage)
	var a certmagic.Storage
	works := d.ask(&d.report.Checks, "storage", name, func() (f aventus.Finding) {
		a, f = probeStorage(ctx, d.storage)
		return f
	})
	if works.Status == aventus.Fail {
		return
	}
	defer keepFolders(a)()
	wait := "  ... what differs between engines"
	fmt.Fprint(d.progress, wait)
	differs := examineStorage(ctx, a, d.storage)
	fmt.Fprintf(d.progress, "\r%*s\r", len(wait), "")
	for _, f := range differs {
		d.ask(&d.report.Checks, "storage", name, func() aventus.Finding { return f })
	}
	d.ask(&d.report.Checks, "keys", name, func() aventus.Finding { return d.probeKeys(ctx, a) })
}

// examineStorage runs those conformance checks whose failure has a consequence, and returns what failed. a
// stands for one instance; a second value is opened for another.
func examineStorage(ctx context.Context, a certmagic.Storage, raw json.RawMessage) []aventus.Finding {
	b, err := openStorage(raw)
	if err != nil {
		return []aventus.Finding{storageFails("opening it a second time, as another instance would", err)}
	}
	// Most checks wait for locks, so they are made concurrently.
	found := make([]*aventus.Finding, len(conformance.Checks))
	var checks sync.WaitGroup
	for i, check := range conformance.Checks {
		if check.Without == "" {
			continue
		}
		checks.Go(func() {
			err := check.Run(ctx, a, b)
			if err == nil {
				return
			}
			found[i] = &aventus.Finding{
				Status: aventus.Fail,
				Detail: aventus.CleanText(fmt.Sprintf("it should be so that %s: %v", check.Name, err)),
				Next:   "on this storage, " + check.Without,
			}
			if check.IsSlight {
				found[i].Status = aventus.Warn
			}
		})
	}
	checks.Wait()
	var findings []aventus.Finding
	for _, f := range found {
		if f != nil {
			findings = append(findings, *f)
		}
	}
	return findings
}

// keepFolders returns a function that removes the folders that a file storage has made since this call.
func keepFolders(storage certmagic.Storage) func() {
	files, ok := storage.(*certmagic.FileStorage)
	if !ok {
		return func() {}
	}
	var made []string
	for _, dir := range []string{filepath.Join(files.Path, "locks"), files.Path} {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			made = append(made, dir)
		}
	}
	return func() {
		for _, dir := range made {
			_ = os.Remove(dir)
		}
	}
}

// probeKeys checks whether the sealing keys can be read. It uses the storage directly: records.Bounded would
// write a key of its own there.
func (d *doctor) probeKeys(ctx context.Context, storage certmagic.Storage) aventus.Finding {
	if !slices.ContainsFunc(d.loaded.blocks, func(b *Block) bool { return b.KeysInStorage }) {
		return skipped("session { key } gives them")
	}
	ctx, cancel := context.WithTimeout(ctx, storagePatience)
	defer cancel()
	found, err := keyring.Inspect(ctx, storage)
	switch {
	case err == nil:
		detail := fmt.Sprintf("%s can be read; keys in it: %d", keyring.File, found)
		return aventus.Finding{Status: aventus.Pass, Detail: detail}
	case !errors.Is(err, fs.ErrNotExist):
		return aventus.Finding{
			Status: aventus.Fail, Detail: aventus.CleanText(err.Error()),
			Next: "an instance that starts answers 503 to everybody: " +
				"see that the user that Caddy runs as may read the file, and that it is as Caddy wrote it",
		}
	case storage.Exists(ctx, records.Landmark):
		return aventus.Finding{
			Status: aventus.Warn, Detail: keyring.File + " is gone, and the storage has been in use",
			Next: "restore it if it was not deleted on purpose: " +
				"at the next start of Caddy new keys are made, and everybody has to sign in again",
		}
	}
	return aventus.Finding{
		Status: aventus.Pass, Detail: "there are none yet: they are made when they are first needed",
	}
}

// storageFails returns the finding for a storage that fails at an operation that a login needs.
func storageFails(doing string, err error) aventus.Finding {
	return aventus.Finding{
		Status: aventus.Fail, Detail: aventus.CleanText(fmt.Sprintf("%s: %v", doing, err)),
		Next: "logins need it: see that it is up, has room, and lets the user that Caddy runs as write, lock " +
			"and delete",
	}
}

// probeStorage opens the storage, and makes the operations of a login in it, under a name of its own. It writes
// nothing before it holds the lock.
func probeStorage(ctx context.Context, raw json.RawMessage) (certmagic.Storage, aventus.Finding) {
	opened, err := openStorage(raw)
	if err != nil {
		return nil, storageFails("opening it", err)
	}
	defer keepFolders(opened)()
	storage, name, value := records.Bounded(opened, nil), "aventus_auth_doctor_"+rand.Text(), []byte(rand.Text())
	if err := storage.Lock(ctx, name); err != nil {
		return nil, storageFails("taking a lock", err)
	}
	defer func() { _ = storage.Unlock(ctx, name) }()
	if err := storage.Store(ctx, name, value); err != nil {
		return nil, storageFails("writing", err)
	}
	read, err := storage.Load(ctx, name)
	if err == nil && !bytes.Equal(read, value) {
		err = errors.New("what came back is not what was written")
	}
	if deleteErr := storage.Delete(ctx, name); err == nil && deleteErr != nil {
		return nil, storageFails("deleting", deleteErr)
	}
	if err != nil {
		return nil, storageFails("reading", err)
	}
	return opened, aventus.Finding{Status: aventus.Pass, Detail: "it can be written, read, locked and deleted from"}
}

// storagePatience limits how long the doctor waits until the storage is opened, or the keys are read.
const storagePatience = 10 * time.Second

// openStorage loads the storage's module, which may connect to the storage.
func openStorage(raw json.RawMessage) (certmagic.Storage, error) {
	type result struct {
		ctx caddy.Context
		err error
	}
	done := make(chan result, 1)
	go func() {
		ctx, err := caddy.ProvisionContext(&caddy.Config{Logging: quiet(), StorageRaw: raw})
		done <- result{ctx, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, r.err
		}
		return r.ctx.Storage(), nil
	case <-time.After(storagePatience):
		return nil, fmt.Errorf("no answer within %s", storagePatience)
	}
}
