package aventusauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/aventus-platform/caddy-aventus-auth/internal/keyring"
	"github.com/aventus-platform/caddy-aventus-auth/internal/records"
)

// oddStorage is a storage on files that fails at one kind of call. It notes the calls that it gets in a file beside
// its folder.
type oddStorage struct {
	certmagic.FileStorage
	At string `json:"at"`
}

func (s *oddStorage) note(call, key string) {
	file, err := os.OpenFile(s.Path+".calls", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	fmt.Fprintln(file, call, key)
}

func init() { caddy.RegisterModule(oddStorage{}) }

func (oddStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.odd", New: func() caddy.Module { return new(oddStorage) }}
}

func (s *oddStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	args := d.RemainingArgs()
	s.At, s.Path = args[0], args[1]
	return nil
}

func (s *oddStorage) CertMagicStorage() (certmagic.Storage, error) { return s, nil }
func (s *oddStorage) Provision(caddy.Context) error                { return s.failAt("provision") }

func (s *oddStorage) failAt(call string) error {
	if s.At == call {
		return errors.New("no \x1b[31mroom")
	}
	return nil
}

func (s *oddStorage) Lock(ctx context.Context, name string) error {
	s.note("lock", name)
	if s.At == "free locks" {
		return nil
	}
	if err := s.failAt("lock"); err != nil {
		return err
	}
	return s.FileStorage.Lock(ctx, name)
}

func (s *oddStorage) Unlock(ctx context.Context, name string) error {
	s.note("unlock", name)
	if s.At == "free locks" {
		return nil
	}
	return s.FileStorage.Unlock(ctx, name)
}

func (s *oddStorage) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	if s.At == "list" {
		return nil, nil
	}
	return s.FileStorage.List(ctx, path, recursive)
}

func (s *oddStorage) Store(ctx context.Context, key string, value []byte) error {
	s.note("store", key)
	if err := s.failAt("store"); err != nil {
		return err
	}
	return s.FileStorage.Store(ctx, key, value)
}

func (s *oddStorage) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := s.FileStorage.Load(ctx, key)
	if s.At == "stale" {
		value = nil
	}
	if s.At == "keys" && key == keyring.File {
		return nil, fmt.Errorf("open %s: %w", key, fs.ErrPermission)
	}
	return value, cmp.Or(s.failAt("load"), err)
}

func (s *oddStorage) Delete(ctx context.Context, key string) error {
	if err := s.failAt("delete"); err != nil {
		return err
	}
	return s.FileStorage.Delete(ctx, key)
}

// TestDoctorStorage: a storage that fails at anything is found, and whatever it is,
// nothing new is in it afterwards.
func TestDoctorStorage(t *testing.T) {
	config := standIn(t, func(http.ResponseWriter, *http.Request) {})
	const next = " next: logins need it: see that it is up"
	for at, want := range map[string]string{
		"":          "pass odd: it can be written, read, locked and deleted from",
		"provision": "FAIL no ?[31mroom" + next,
		"lock":      "FAIL taking a lock: storage: locking aventus_auth_doctor_",
		"store":     "FAIL writing: storage: storing aventus_auth_doctor_",
		"load":      "FAIL reading: storage: loading aventus_auth_doctor_",
		"stale":     "FAIL reading: what came back is not what was written" + next,
		"delete":    "FAIL deleting: storage: deleting aventus_auth_doctor_",
	} {
		root := t.TempDir()
		before := filesBelow(t, root)
		r := doctorOf(t, fmt.Sprintf("{\nstorage odd %q %s\n}\n", at, root)+config)
		r.expect(t, 1, map[string]string{"storage": want}) // the server is none
		left := slices.DeleteFunc(filesBelow(t, root),
			func(path string) bool { return path == filepath.Join(root, "locks") })
		if !slices.Equal(left, before) && at != "delete" {
			t.Errorf("%s: it left %q", at, left)
		}
	}

	// The folders that Caddy will make when it starts are not there yet.
	root := filepath.Join(t.TempDir(), "caddy")
	doctorOf(t, "{\nstorage file_system "+root+"\n}\n"+config).expect(t, 1, map[string]string{"storage": "pass "})
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it left the storage's folder: %v", err)
	}
	// A folder that cannot be: what is above it is a file.
	if err := os.WriteFile(root, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	doctorOf(t, "{\nstorage file_system "+root+"/storage\n}\n"+config).expect(t, 1, map[string]string{
		"storage": "FAIL not a directory" + next,
	})
}

// TestDoctorLocksFirst: the storage's lock is tried before anything relies on it, and what follows is done while
// it is held. Where there is no lock to be had, nothing is written at all.
func TestDoctorLocksFirst(t *testing.T) {
	config := standIn(t, func(http.ResponseWriter, *http.Request) {})
	for at, want := range map[string]string{
		"":     "lock NAME\nstore NAME\nunlock NAME\n",
		"lock": "lock NAME\n",
	} {
		root := filepath.Join(t.TempDir(), "storage")
		doctorOf(t, fmt.Sprintf("{\nstorage odd %q %s\n}\n", at, root)+config)
		calls := readFile(t, root+".calls")
		_, rest, _ := strings.Cut(calls, " ")
		name, _, _ := strings.Cut(rest, "\n")
		if !strings.HasPrefix(strings.ReplaceAll(calls, name, "NAME"), want) || at != "" &&
			strings.Contains(calls, "store") {
			t.Errorf("%q: it called\n%s", at, calls)
		}
	}
}

// onStorage returns the config of a world with another storage.
func onStorage(w *world, at, root string) string {
	files := "storage file_system " + filepath.Join(w.dir, "storage")
	return strings.Replace(w.config, files, fmt.Sprintf("storage odd %q %s", at, root), 1)
}

// TestDoctorEngine: what a storage does otherwise than it is asked to is said, with what will not work on it, and
// whether anything fails for it.
func TestDoctorEngine(t *testing.T) {
	w := newWorld(t, setup{block: "verify_token"})
	for at, want := range map[string]struct {
		status int
		lines  []string
	}{
		"": {0, nil},
		"free locks": {0, []string{
			"WARN storage odd: it should be so that of several that take a lock at once, one gets it: two " +
				"instances hold it " +
				"next: on this storage, several instances that start at once on an empty storage may make two " +
				"sealing keys",
			"WARN storage odd: it should be so that a lock that is held is waited for",
			"WARN storage odd: it should be so that a lock ends its waiting with its context",
		}},
		"list": {1, []string{
			"FAIL storage odd: it should be so that a listing shows what was stored: 0 of 4 keys are shown " +
				"next: on this storage, codes cannot be used, so nobody can sign in",
		}},
	} {
		root := t.TempDir()
		r := doctorOf(t, onStorage(w, at, root))
		r.expect(t, want.status, map[string]string{"storage": "pass ", "keys": "pass there are none yet"})
		said := strings.Join(strings.Fields(r.stdout), " ")
		for _, line := range want.lines {
			if !strings.Contains(said, line) {
				t.Errorf("%s: it does not say %q but\n%s", at, line, r.stdout)
			}
		}
		if n := strings.Count(said, " storage odd: "); n != 1+len(want.lines) {
			t.Errorf("%s: %d lines are of the storage in\n%s", at, n, r.stdout)
		}
		left := slices.DeleteFunc(filesBelow(t, root),
			func(path string) bool { return path == filepath.Join(root, "locks") })
		if !slices.Equal(left, []string{root}) {
			t.Errorf("%s: it left %q", at, left)
		}
	}
}

// TestDoctorKeyFile: the sealing keys are read as an instance that starts would read them, and not touched.
func TestDoctorKeyFile(t *testing.T) {
	w := newWorld(t, setup{})
	w.browser().login("/")
	good := readFile(t, filepath.Join(w.dir, "storage", keyring.File))
	stored := func(content string) string {
		root := t.TempDir()
		if content != "" {
			path := filepath.Join(root, keyring.File)
			if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700),
				os.WriteFile(path, []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	const next = " next: an instance that starts answers 503 to everybody: see that the user that Caddy runs as " +
		"may read"
	used := stored("")
	if err := errors.Join(os.Mkdir(filepath.Join(used, "aventus_auth"), 0o700),
		os.WriteFile(filepath.Join(used, records.Landmark), []byte{1}, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what, at, root string
		status         int
		want           string
	}{
		{"as it was written", "", stored(good), 0, "pass aventus_auth/keys.json can be read; keys in it: 1"},
		{"not there yet", "", stored(""), 0, "pass there are none yet"},
		{"gone", "", used, 0, "WARN aventus_auth/keys.json is gone, and the storage has been in use next: restore it"},
		{"damaged", "", stored(good[:40]), 1,
			"FAIL aventus_auth/keys.json is damaged; restore it, or delete it to end all sessions" + next},
		{"another file", "", stored("{}"), 1,
			"FAIL aventus_auth/keys.json holds no key; delete it to have one made" + next},
		{"a key that is cut off", "", stored(`{"keys":[{"secret":"AAAA"}]}`), 1,
			"FAIL a key needs 32 bytes or more, not 3" + next},
		{"unreadable", "keys", stored(good), 1, "FAIL permission denied" + next},
	} {
		before := filesBelow(t, tc.root)
		r := doctorOf(t, onStorage(w, tc.at, tc.root))
		r.expect(t, tc.status, map[string]string{"storage": "pass ", "keys": tc.want})
		left := slices.DeleteFunc(filesBelow(t, tc.root),
			func(path string) bool { return path == filepath.Join(tc.root, "locks") })
		if !slices.Equal(left, before) {
			t.Errorf("%s: it left %q of %q", tc.what, left, before)
		}
	}
	// Where the config has the keys of all blocks, the file is no matter.
	config := onStorage(w, "keys", stored(good))
	of, own := w.directive("", ""), w.directive("", "session {\nkey "+strings.Repeat("a", 43)+"\n}")
	for _, c := range []struct {
		blocks string
		status int
		want   string
	}{
		{own + "\n" + own, 0, "skip session { key } gives them"},
		{own + "\n" + of, 1, "FAIL permission denied" + next},
		{of + "\n" + own, 1, "FAIL permission denied" + next},
	} {
		doctorOf(t, strings.Replace(config, of, c.blocks, 1)).expect(t, c.status, map[string]string{"keys": c.want})
	}
}
