package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/aventus-platform/caddy-aventus-auth/internal/aventustest"
)

// flooded measures what strangers leave behind on the server.
func (b *bench) flooded() error {
	addr, err := aventustest.FreeAddr()
	if err != nil {
		return err
	}
	w, err := b.newWorld(0, addr)
	if err != nil {
		return err
	}
	defer w.stop()
	folder := filepath.Join(b.dir, "flood")
	n, err := b.newNode(addr, w, "storage file_system "+folder, "session {\nstore storage\n}", asSubject)
	if err != nil {
		return err
	}
	defer n.stop()
	for _, forged := range []string{"", "a"} { // the first of each kind has what is there once made
		if _, err := b.strangers(addr, b.bare, forged); err != nil {
			return err
		}
	}

	var columns []string
	var heap, resident, goroutines, files, rate []float64
	look := func(column string, perSecond float64) error {
		s, err := n.look()
		if err != nil {
			return err
		}
		found, _, err := filesIn(folder)
		columns = append(columns, column)
		heap, resident = append(heap, s.heap/mega), append(resident, s.resident/mega)
		goroutines, files, rate = append(goroutines, s.goroutines), append(files, float64(found)),
			append(rate, perSecond)
		return err
	}
	if err := look("before", 0); err != nil {
		return err
	}
	for _, forged := range []string{"", "a"} {
		for _, many := range b.sizes.flood {
			perSecond, err := b.strangers(addr, many, forged)
			if err != nil {
				return err
			}
			column := count(many)
			if forged != "" {
				column = "forged " + column
			}
			if err := look(column, perSecond); err != nil {
				return err
			}
			b.say("flood: %s at %.0f a second", column, perSecond)
		}
	}
	if last := len(files) - 1; files[last] != files[0] {
		return fmt.Errorf("strangers have left %.0f files in the storage", files[last]-files[0])
	}
	t := b.report.table("A flood of strangers: page requests without a session, then such with a forged one; what "+
		"there is after each", columns...)
	t.add("live heap", "MiB", heap...)
	t.add("resident", "MiB", resident...)
	t.add("goroutines", "", goroutines...)
	t.add("files in the storage", "", files...)
	t.add("answered a second", "", rate...)
	return nil
}

// strangers asks for that many different pages, each as somebody whom nobody knows,
// and returns how many a second there were. All are sent to the login.
func (b *bench) strangers(addr string, many int, forged string) (float64, error) {
	began := time.Now()
	err := each(b.ctx, many, atOnce, func(i int) error {
		cookie := ""
		if forged != "" { // as long as a handle is
			cookie = fmt.Sprintf("%s=%s%010d", sessionCookie, strings.Repeat(forged, 120), i)
		}
		a, err := visit(b.ctx, fmt.Sprintf("http://%s/page/%d", addr, i), cookie)
		if err == nil && (a.status != http.StatusFound || !strings.HasPrefix(a.cookie, loginCookie)) {
			err = fmt.Errorf("a stranger was answered %d", a.status)
		}
		return err
	})
	return float64(many) / time.Since(began).Seconds(), err
}

// filesIn returns how many files there are in a folder, and what they take on disk.
func filesIn(folder string) (n int, size float64, err error) {
	err = filepath.WalkDir(folder, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		n, size = n+1, size+onDisk(info)
		return nil
	})
	return n, size, err
}

// rest waits, unless the run is over.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
