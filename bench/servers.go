package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cores are the cores of processes: one for the measured servers, and one for all others, such
// as the load, the authorization server and the app.
type cores struct{ server, load int }

// twoCores returns the first two cores that this process may use.
func twoCores() (cores, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return cores{}, fmt.Errorf("reading which cores there are: %w", err)
	}
	var found []int
	for cpu := 0; len(found) < 2 && cpu < len(set)*64; cpu++ {
		if set.IsSet(cpu) {
			found = append(found, cpu)
		}
	}
	if len(found) < 2 {
		return cores{}, errors.New("this needs two cores: one for the server, and one for the load")
	}
	return cores{found[0], found[1]}, nil
}

// command prepares a process that ends with ctx, with all its children.
func command(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	// A process group of its own: Ctrl-C reaches only this process, which then ends all
	// others in order. If this process is killed, the kernel ends them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 3 * time.Second
	return cmd
}

// startOn starts a process on one core. Go's runtime sees that core alone, so
// GOMAXPROCS is 1; it is set all the same, for whoever reads the environment.
func startOn(core int, cmd *exec.Cmd) error {
	// A child inherits the cores of the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	one.Set(core)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)
	cmd.Env = append(cmd.Environ(), "GOMAXPROCS=1")
	return cmd.Start()
}

// server is a process that runs until the measurement ends.
type server struct {
	cmd   *exec.Cmd
	log   string // a file
	ended chan struct{}
}

// servers are all that were started, to be ended together.
type servers struct {
	sync.WaitGroup
}

// start starts a server, and waits until it takes connections.
func (s *servers) start(core int, cmd *exec.Cmd, log, address string) (*server, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	p := &server{cmd: cmd, log: log, ended: make(chan struct{})}
	if err := startOn(core, cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", filepath.Base(cmd.Path), err)
	}
	s.Go(func() {
		_ = cmd.Wait()
		// For processes that have ignored the first signal.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		close(p.ended)
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return p, nil
		}
		select {
		case <-p.ended:
			return nil, fmt.Errorf("%s ended at once: %s", filepath.Base(cmd.Path), p.lastWords())
		default:
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s takes no connections: %s", filepath.Base(cmd.Path), p.lastWords())
		}
	}
}

// lastWords returns the end of the server's log.
func (p *server) lastWords() string {
	log, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " / ")
}

// cpuTime returns the processor time that a server has used so far, its children's
// included.
func cpuTime(pid int) (time.Duration, error) {
	var total time.Duration
	for _, p := range family(pid) {
		var t unix.Timespec
		// The clock of another process, in nanoseconds; /proc counts in hundredths of a
		// second. See "man 3 clock_getcpuclockid" and its source for the number.
		err := unix.ClockGettime(int32(^p<<3|2), &t)
		if errors.Is(err, unix.EINVAL) && p != pid {
			continue // it has just ended, and is counted below
		}
		if err != nil {
			return 0, fmt.Errorf("reading the processor time of %d: %w", p, err)
		}
		total += time.Duration(t.Nano())
	}
	// Apache ends children when it has too many, and their time counts as well.
	stat, err := readStat(pid)
	if err != nil {
		return 0, err
	}
	return total + stat.ofEnded, nil
}

// memory returns the resident bytes of a server. Apache's processes share most of their
// memory, which must count once: so this is the sum of the private bytes of all processes,
// and the largest number of shared bytes of one.
func memory(pid int) (int64, error) {
	var private, shared int64
	for _, p := range family(pid) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if p != pid && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)) {
			continue // it has just ended
		}
		if err != nil {
			return 0, err
		}
		all, own, err := parseSmaps(string(b))
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/smaps_rollup: %w", p, err)
		}
		private, shared = private+own, max(shared, all-own)
	}
	return private + shared, nil
}

// parseSmaps returns the resident bytes of a process, and how many of them are private.
func parseSmaps(s string) (all, own int64, err error) {
	found := 0
	for line := range strings.Lines(s) {
		name, value, _ := strings.Cut(line, ":")
		if name != "Rss" && name != "Private_Clean" && name != "Private_Dirty" {
			continue
		}
		kB, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", name, err)
		}
		found++
		if name == "Rss" {
			all = kB * 1024
		} else {
			own += kB * 1024
		}
	}
	if found != 3 {
		return 0, 0, errors.New("it does not say what is resident")
	}
	return all, own, nil
}

// family returns a process, and all that descend from it.
func family(pid int) []int {
	children := make(map[int][]int)
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if p, err := strconv.Atoi(e.Name()); err == nil {
			if stat, err := readStat(p); err == nil {
				children[stat.parent] = append(children[stat.parent], p)
			}
		}
	}
	found := []int{pid}
	for i := 0; i < len(found); i++ {
		found = slices.Concat(found, children[found[i]])
	}
	return found
}

// stat holds the fields that are used of /proc/PID/stat; see "man 5 proc".
type stat struct {
	parent  int
	ofEnded time.Duration // processor time of children that have ended
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(b))
}

func parseStat(s string) (stat, error) {
	// The second field is the command in parentheses, and may hold any characters.
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 15 {
		return stat{}, errors.New("/proc/PID/stat is too short")
	}
	var numbers [3]int
	for i, field := range []int{4, 16, 17} { // ppid, cutime, cstime, counted from 1
		n, err := strconv.Atoi(fields[field-3])
		if err != nil {
			return stat{}, fmt.Errorf("/proc/PID/stat: %w", err)
		}
		numbers[i] = n
	}
	const tick = time.Second / 100 // USER_HZ, on every Linux
	return stat{numbers[0], time.Duration(numbers[1]+numbers[2]) * tick}, nil
}
