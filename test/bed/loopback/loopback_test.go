package loopback

import (
	"net"
	"testing"
)

// A port that was given away is not given again before its server listens on it.
func TestPortIsGivenOnce(t *testing.T) {
	seen := map[int]bool{}
	for range ports / 10 {
		port, err := Port()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("port %d was given twice", port)
		}
		seen[port] = true
	}
	listener, err := Listen("")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if port := listener.Addr().(*net.TCPAddr).Port; seen[port] {
		t.Errorf("listens on port %d, which was given away", port)
	}
}
