package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// engine is what keeps Caddy's storage, as this command looks at it from outside.
type engine interface {
	// config is how a Caddyfile names it.
	config() string
	// size is what it takes for what it holds, in bytes.
	size(ctx context.Context) (float64, error)
	// hours lists what is filed at a place, by the hours.
	hours(ctx context.Context, place string) ([]string, error)
	// redate files at another hour what is filed at one.
	redate(ctx context.Context, place, from, to string) error
	// count counts what is filed at an hour, and isGone reports whether nothing is left
	// of it, not even the folder.
	count(ctx context.Context, place, hour string) (int, error)
	isGone(ctx context.Context, place, hour string) (bool, error)
	stop()
}

// The plugin files what expires by the hour: the records of sessions by that in which
// they do, and which codes were spent by that in which they were.
const (
	sessionsPlace = "aventus_auth/sessions"
	spentPlace    = "aventus_auth/spent"
)

// files is Caddy's own storage.
type files struct{ folder string }

func (f files) config() string { return "storage file_system " + f.folder }
func (f files) stop()          {}

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

func (f files) hours(_ context.Context, place string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(f.folder, place))
	var hours []string
	for _, e := range entries {
		hours = append(hours, e.Name())
	}
	return hours, err
}

func (f files) redate(_ context.Context, place, from, to string) error {
	return os.Rename(filepath.Join(f.folder, place, from), filepath.Join(f.folder, place, to))
}

func (f files) count(_ context.Context, place, hour string) (int, error) {
	entries, err := os.ReadDir(filepath.Join(f.folder, place, hour))
	return len(entries), err
}

func (f files) isGone(_ context.Context, place, hour string) (bool, error) {
	_, err := os.Stat(filepath.Join(f.folder, place, hour))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// redisServer is a Redis with caddy-storage-redis, which keeps a value at "caddy/" and
// its key, and at each folder of them a sorted set of what is in it.
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

func (r *redisServer) size(ctx context.Context) (float64, error) {
	info, err := r.client.InfoMap(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(info["Memory"]["used_memory"], 64)
}

func (r *redisServer) hours(ctx context.Context, place string) ([]string, error) {
	hours, err := r.client.ZRange(ctx, path.Join("caddy", place), 0, -1).Result()
	for i := range hours {
		hours[i] = path.Clean(hours[i]) // folders end in a slash there
	}
	return hours, err
}

func (r *redisServer) redate(ctx context.Context, place, from, to string) error {
	place = path.Join("caddy", place)
	names, err := r.client.ZRange(ctx, path.Join(place, from), 0, -1).Result()
	if err != nil {
		return err
	}
	_, err = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, name := range names {
			p.Rename(ctx, path.Join(place, from, name), path.Join(place, to, name))
		}
		p.Rename(ctx, path.Join(place, from), path.Join(place, to))
		p.ZAdd(ctx, place, redis.Z{Member: to + "/"})
		p.ZRem(ctx, place, from+"/")
		return nil
	})
	return err
}

func (r *redisServer) count(ctx context.Context, place, hour string) (int, error) {
	n, err := r.client.ZCard(ctx, path.Join("caddy", place, hour)).Result()
	return int(n), err
}

func (r *redisServer) isGone(ctx context.Context, place, hour string) (bool, error) {
	if n, err := r.count(ctx, place, hour); n > 0 || err != nil {
		return false, err
	}
	// What is in no set any more could still be there.
	keys := r.client.Scan(ctx, 0, path.Join("caddy", place, hour, "*"), 10_000).Iterator()
	return !keys.Next(ctx), keys.Err()
}
