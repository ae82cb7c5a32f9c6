package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	storageredis "github.com/pberkel/caddy-storage-redis"
	"github.com/redis/go-redis/v9"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// engine is what keeps Caddy's storage, as this command looks at it from outside.
type engine interface {
	// config is how a Caddyfile names it.
	config() string
	// storage is what a Caddy makes of it.
	storage(ctx caddy.Context) (certmagic.Storage, error)
	// size is what it takes for what it holds, in bytes.
	size(ctx context.Context) (float64, error)
	stop()
}

// files is Caddy's own storage.
type files struct{ folder string }

func (f files) config() string { return "storage file_system " + f.folder }
func (f files) stop()          {}

func (f files) storage(caddy.Context) (certmagic.Storage, error) {
	return &certmagic.FileStorage{Path: f.folder}, nil
}

func (f files) size(context.Context) (float64, error) {
	_, size, err := filesIn(f.folder)
	return size, err
}

// onDisk is what a file takes of the disk, which is more than is in it.
func onDisk(info fs.FileInfo) float64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return float64(stat.Blocks) * 512
	}
	return float64(info.Size())
}

// newEngine makes an engine of a kind: files or redis.
func (b *bench) newEngine(kind, name string) (engine, error) {
	if kind == "redis" {
		return b.newRedis(name)
	}
	return files{filepath.Join(b.dir, name)}, nil
}

// redisServer is a Redis with caddy-storage-redis.
type redisServer struct {
	*process
	client *redis.Client
	addr   string
}

func (b *bench) newRedis(name string) (*redisServer, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("%w (Debian's package is redis-server)", err)
	}
	r := new(redisServer)
	if r.addr, err = aventustest.FreeAddr(); err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(r.addr)
	r.process, err = start(filepath.Join(dir, "log"), nil, program, "--port", port, "--bind", "127.0.0.1", "--dir",
		dir, "--appendonly", "yes", "--save", "")
	if err != nil {
		return nil, err
	}
	r.client = redis.NewClient(&redis.Options{Addr: r.addr})
	return r, r.await(r.addr)
}

func (r *redisServer) config() string {
	host, port, _ := net.SplitHostPort(r.addr)
	return fmt.Sprintf("storage redis {\nhost %s\nport %s\n}", host, port)
}

func (r *redisServer) storage(ctx caddy.Context) (certmagic.Storage, error) {
	s := storageredis.New()
	s.Address = []string{r.addr}
	return s, s.Provision(ctx)
}

func (r *redisServer) size(ctx context.Context) (float64, error) {
	info, err := r.client.InfoMap(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(info["Memory"]["used_memory"], 64)
}
