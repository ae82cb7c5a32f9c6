// Command scale measures how the cost of aventus_auth grows with the number of
// sessions, sockets and strangers: on a real Caddy with the plugin, with the
// authorization server's stand-in in a process of its own, and the visitors here.
//
//	go -C bench run ./scale
//	go -C bench run ./scale -quick            small numbers, to try it
//	go -C bench run ./scale -only sockets     one part of it
//
// It prints tables, and writes them into README.md, which says how to read them, and
// into ../results/scale.json.
//
// All three are this one binary: as "run" it is Caddy, and as "world" what is around
// the site. Both end with the process that started them.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/aventus-platform/caddy-aventus-auth"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/pberkel/caddy-storage-redis"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "run":
			go endWithParent()
			caddycmd.Main()
			return
		case "world":
			go endWithParent()
			exitOn(serveWorld(os.Args[2:]))
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends even what hangs
	exitOn(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

// endWithParent ends this process when the one that started it has ended, however
// that came about: it holds the other end of the standard input.
func endWithParent() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// sizes are how many of each there are.
type sizes struct {
	memory  []int // sessions, so many that the bound of the memory shows
	storage []int // sessions in the storage, few and many
	probes  int   // lookups that are timed in each; a tenth as many logins
	ended   []int // sessions that were ended lately
	learned []int // the same, by another instance, while requests come
	sockets []int // few and many
	bare    int   // requests before anything counts, to fill what fills at once
	flood   []int // anonymous requests
	watch   time.Duration
}

var (
	full = sizes{[]int{10_000, 40_000, 80_000}, []int{10_000, 100_000}, 2000, []int{500, 5000},
		[]int{0, 200_000, 1_000_000}, []int{1000, 10_000}, 2000, []int{10_000, 100_000}, 10 * time.Second}
	quick = sizes{[]int{64, 128, 256}, []int{200, 2000}, 100, []int{20, 200},
		[]int{0, 2000, 4000}, []int{20, 200}, 200, []int{200, 2000}, 2 * time.Second}
)

// bench is a run of this command.
type bench struct {
	ctx context.Context
	sizes
	dir    string // for all that is written meanwhile
	log    io.Writer
	report *report
}

// part is something that is measured.
type part struct {
	name string
	do   func(*bench) error
}

// parts are all of them, in their order.
var parts = []part{
	{"memory", (*bench).memory},
	{"storage", (*bench).storages},
	{"ended", (*bench).endedSessions},
	{"learned", (*bench).requestsMeanwhile},
	{"sockets", (*bench).socketsOpen},
	{"flood", (*bench).flooded},
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	small := flags.Bool("quick", false, "small numbers, to try it; writes nothing")
	only := flags.String("only", "",
		"measure this `part` alone: memory, storage, ended, learned, sockets or flood; writes nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b := &bench{ctx: ctx, sizes: full, log: stderr, report: newReport()}
	if *small {
		b.sizes = quick
	}
	todo := parts
	if *only != "" {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == *only })
		if i < 0 {
			return fmt.Errorf("there is no part %q", *only)
		}
		todo = parts[i : i+1]
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "aventus-scale-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	for _, part := range todo {
		began := time.Now()
		if err := part.do(b); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		b.say("%s: %s", part.name, time.Since(began).Round(time.Second))
	}
	b.report.print(stdout)
	if *small || *only != "" {
		return nil
	}
	return b.report.publish(".")
}

// say tells whoever waits how far it is.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.log, "%s %s\n", time.Now().Format(time.TimeOnly), strings.TrimSpace(fmt.Sprintf(format, args...)))
}
