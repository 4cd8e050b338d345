package bed_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A bed whose starter is killed, which can't clean up, leaves no process behind. While it runs it can be reached from
// this machine only and writes to its directory only.
func TestServersDieWithTheirStarter(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), starterVariable+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var pids map[string]int
	if err := json.NewDecoder(out).Decode(&pids); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"controlplane", "prometheus", "registry"} {
		pid := pids[name]
		if pid == 0 || !runs(pid) {
			t.Fatalf("%s does not run; the servers are %v", name, pids)
		}
		listens := listeners(t, pid)
		if len(listens) == 0 {
			t.Errorf("%s listens nowhere", name)
		}
		for _, ip := range listens {
			if !ip.IsLoopback() {
				t.Errorf("%s listens on %s", name, ip)
			}
		}
		for _, file := range writes(t, pid) {
			if !strings.HasPrefix(file, dir+"/") {
				t.Errorf("%s writes to %s", name, file)
			}
		}
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, 20*time.Second, func() (bool, string) {
		for name, pid := range pids {
			if runs(pid) {
				return false, name + " still runs"
			}
		}
		return true, ""
	})
}

// runs reports whether there is such a process that has not ended.
func runs(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	return err == nil && !strings.HasPrefix(rest, "Z")
}

// links of a process's open files, by file descriptor.
func links(t *testing.T, pid int) map[string]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, e := range list {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil { // else closed by now
			found[e.Name()] = target
		}
	}
	return found
}

// listeners are the addresses that a process listens on.
func listeners(t *testing.T, pid int) []net.IP {
	t.Helper()
	own := map[string]bool{}
	for _, target := range links(t, pid) {
		own[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] = true
	}
	var found []net.IP
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile("/proc/net/" + table)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			const address, state, inode, listening = 1, 3, 9, "0A"
			if f := strings.Fields(line); len(f) > inode && f[state] == listening && own[f[inode]] {
				found = append(found, parseIP(t, f[address]))
			}
		}
	}
	return found
}

// parseIP reads "0100007F:1F90": words of 32 bits, each in the byte order of the machine, which is little-endian.
func parseIP(t *testing.T, address string) net.IP {
	t.Helper()
	host, _, _ := strings.Cut(address, ":")
	var ip net.IP
	for ; len(host) >= 8; host = host[8:] {
		word, err := strconv.ParseUint(host[:8], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		ip = append(ip, byte(word), byte(word>>8), byte(word>>16), byte(word>>24))
	}
	return ip
}

// writes are the files that a process has open for writing.
func writes(t *testing.T, pid int) []string {
	t.Helper()
	var files []string
	for fd, target := range links(t, pid) {
		if !strings.HasPrefix(target, "/") || strings.HasPrefix(target, "/dev/") {
			continue // sockets, pipes
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(info)) {
			if value, ok := strings.CutPrefix(line, "flags:"); ok {
				flags, err := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
				if err != nil {
					t.Fatal(err)
				}
				if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
					files = append(files, target)
				}
			}
		}
	}
	return files
}
