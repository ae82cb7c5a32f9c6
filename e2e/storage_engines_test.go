package e2e

import (
	"database/sql"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	certmagicsql "github.com/travisjeffery/certmagic-sqlstorage"
)

// storage is what the Caddys of a cluster keep what they share in.
type storage interface {
	config() string      // the arguments of the global option
	away() (back func()) // takes it away
	jam() (over func())  // has it answer no more; nil where that cannot be done
}

// storages are the engines that are tried.
var storages = map[string]func(*testing.T) storage{
	"files":    func(t *testing.T) storage { return &files{t, filepath.Join(t.TempDir(), "storage")} },
	"redis":    func(t *testing.T) storage { return newRedis(t) },
	"postgres": func(t *testing.T) storage { return newPostgres(t) },
	"s3":       func(t *testing.T) storage { return newS3(t) },
}

type files struct {
	t    *testing.T
	root string
}

func (f *files) config() string { return "file_system " + f.root }

// away leaves a file where the folder was, as a mount that failed may.
func (f *files) away() func() {
	f.t.Helper()
	kept := f.root + ".kept"
	if err := errors.Join(os.Rename(f.root, kept), os.WriteFile(f.root, nil, 0o600)); err != nil {
		f.t.Fatal(err)
	}
	return func() {
		if err := errors.Join(os.Remove(f.root), os.Rename(kept, f.root)); err != nil {
			f.t.Fatal(err)
		}
	}
}

// redis is a Redis that keeps what it has on disk.
type redis struct {
	process
	port string
}

func newRedis(t *testing.T) *redis {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err) // a test that does not run shows nothing
	}
	dir, port := t.TempDir(), freePort(t)
	r := &redis{port: port, process: process{t: t, log: filepath.Join(dir, "log"), addr: "127.0.0.1:" + port}}
	// Without appendfsync, a Redis that is killed may lose what it answered for a moment ago, where the disk is slow.
	r.make = func() *exec.Cmd {
		return exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--appendonly", "yes",
			"--appendfsync", "always", "--save", "")
	}
	r.start()
	r.await()
	return r
}

func (r *redis) config() string { return "redis {\nhost 127.0.0.1\nport " + r.port + "\n}" }

func (r *redis) away() func() {
	r.kill()
	return func() { r.start(); r.await() }
}

func (f *files) jam() func() { return nil }

func (r *redis) jam() func() {
	r.signal(syscall.SIGSTOP)
	return func() { r.signal(syscall.SIGCONT) }
}

// jam stops the server and all of its children, which have groups of their own.
func (p *postgres) jam() func() {
	all := []int{p.cmd.Process.Pid}
	children, err := os.ReadFile("/proc/" + strconv.Itoa(all[0]) + "/task/" + strconv.Itoa(all[0]) + "/children")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(children)) {
		n, _ := strconv.Atoi(pid)
		all = append(all, n)
	}
	signal := func(s syscall.Signal) {
		for _, pid := range all {
			_ = syscall.Kill(pid, s) // a child may have ended
		}
	}
	signal(syscall.SIGSTOP)
	return func() { signal(syscall.SIGCONT) }
}

func (s *s3) jam() func() {
	over := make(chan struct{})
	s.jammed.Store(&over)
	return func() { s.jammed.Store(nil); close(over) }
}

// postgres is a PostgreSQL with a cluster of its own.
type postgres struct {
	process
	port string
}

func newPostgres(t *testing.T) *postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		t.Fatal("there is no PostgreSQL; get it with: apt-get install postgresql")
	}
	bin, port := found[len(found)-1], freePort(t)
	dir, err := os.MkdirTemp("", "postgres") // t.TempDir is for this user alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// It refuses to run as root.
	as := new(syscall.SysProcAttr)
	if os.Getuid() == 0 {
		owner, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(owner.Uid)
		gid, _ := strconv.Atoi(owner.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, as
		return cmd
	}
	data := filepath.Join(dir, "data")
	out, err := run("initdb", "--auth=trust", "--no-sync", "--username=caddy", "-D", data).CombinedOutput()
	if err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	log := filepath.Join(t.TempDir(), "log")
	p := &postgres{port: port, process: process{t: t, log: log, addr: "127.0.0.1:" + port}}
	p.make = func() *exec.Cmd {
		return run("postgres", "-D", data, "-p", port, "-k", dir, "-c", "listen_addresses=127.0.0.1",
			"-c", "fsync=off")
	}
	p.start()
	p.awaitQuery()
	// Of two Caddys that make its tables at once, one would fail to start.
	db, err := sql.Open("pgx", p.url())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := certmagicsql.NewStorage(t.Context(), db, certmagicsql.Options{}); err != nil {
		t.Fatal(err)
	}
	return p
}

// awaitQuery waits until it answers, which is later than when it takes connections.
func (p *postgres) awaitQuery() {
	p.t.Helper()
	eventually(p.t, "PostgreSQL answers", func() bool {
		psql := exec.Command("psql", "-h", "127.0.0.1", "-p", p.port, "-U", "caddy", "-c", "select 1", "postgres")
		return psql.Run() == nil
	})
}

func (p *postgres) url() string {
	return "postgres://caddy@127.0.0.1:" + p.port + "/postgres?sslmode=disable"
}

func (p *postgres) config() string { return "postgres " + p.url() }

func (p *postgres) away() func() {
	p.killed.Store(true)
	p.signal(syscall.SIGQUIT) // it and its children end at once
	<-p.ended
	return func() { p.start(); p.awaitQuery() }
}

// s3 is a stand-in for an S3 server, in memory.
type s3 struct {
	t      *testing.T
	addr   string
	http   *http.Server
	s3     http.Handler
	jammed atomic.Pointer[chan struct{}]
}

func newS3(t *testing.T) *s3 {
	t.Helper()
	memory := s3mem.New()
	if err := memory.CreateBucket("caddy"); err != nil {
		t.Fatal(err)
	}
	s := &s3{t: t, addr: "127.0.0.1:" + freePort(t), s3: gofakes3.New(memory).Server()}
	s.serve()
	t.Cleanup(func() { _ = s.http.Close() })
	return s
}

func (s *s3) serve() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.http = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if jammed := s.jammed.Load(); jammed != nil {
			<-*jammed
		}
		s.s3.ServeHTTP(w, r)
	})}
	go func() { _ = s.http.Serve(l) }()
}

func (s *s3) config() string {
	return "s3 {\nendpoint http://" + s.addr + "\nbucket caddy\nregion us-east-1\n" +
		"access_key a\nsecret_key b\nuse_path_style true\n}"
}

func (s *s3) away() func() {
	_ = s.http.Close()
	return s.serve
}
