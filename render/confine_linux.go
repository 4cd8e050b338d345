package render

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/landlock-lsm/go-landlock/landlock"
)

// Confined reports whether the platform can hold a worker to its limits of memory and CPU time.
const Confined = true

// confine takes from this process what rendering does not need.
func confine() error {
	debug.SetMaxStack(maxStack)
	// The collector works harder before the limit kills.
	debug.SetMemoryLimit(maxMemory / 4 * 3)
	// Templates that take all the time they may have take it from nobody who is on time.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 10)
	// Should the machine have no memory left, this process goes before the one that it works for.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	reserved, err := addressSpace()
	if err != nil {
		return fmt.Errorf("limiting the rendering process: %w", err)
	}
	for _, l := range []struct {
		resource int
		limit    uint64
	}{
		{syscall.RLIMIT_DATA, maxMemory},
		// Go maps its heap over what it has reserved, and the kernel does not count such a piece before the next one: a single
		// large allocation would pass. What Go reserves is address space.
		{syscall.RLIMIT_AS, reserved + maxMemory + maxMemory/2},
		{syscall.RLIMIT_FSIZE, 0},
		{syscall.RLIMIT_CORE, 0},
		{syscall.RLIMIT_NOFILE, 16},
	} {
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return fmt.Errorf("limiting the rendering process: %w", err)
		}
	}
	// Go ignores the signal of who has used up his time.
	exceeded := make(chan os.Signal, 1)
	signal.Notify(exceeded, syscall.SIGXCPU)
	go func() {
		<-exceeded
		fmt.Fprintln(os.Stderr, overtime)
		os.Exit(2)
	}()
	// No files, no network, no signals to others, as far as the kernel can refuse them.
	if err := landlock.V7.BestEffort().Restrict(); err != nil {
		return fmt.Errorf("confining the rendering process: %w", err)
	}
	return nil
}

// addressSpace returns how many bytes of it this process has, most of which are reserved alone.
func addressSpace() (uint64, error) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var pages uint64
	if _, err := fmt.Sscan(string(statm), &pages); err != nil {
		return 0, fmt.Errorf("/proc/self/statm: %w", err)
	}
	return pages * uint64(os.Getpagesize()), nil //nolint:gosec // a page has a size above 0
}

// allowCPU gives this process that much more CPU time, counted in whole seconds; then the kernel ends it.
func allowCPU(d time.Duration) error {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return fmt.Errorf("reading the CPU time used: %w", err)
	}
	var limit syscall.Rlimit
	const cpu = 0 // RLIMIT_CPU
	if err := syscall.Getrlimit(cpu, &limit); err != nil {
		return fmt.Errorf("reading the limit of CPU time: %w", err)
	}
	limit.Cur = min(limit.Max, uint64(used.Utime.Sec+used.Stime.Sec+1)+uint64(d/time.Second)) // seconds since the start
	if err := syscall.Setrlimit(cpu, &limit); err != nil {
		return fmt.Errorf("limiting CPU time: %w", err)
	}
	return nil
}
