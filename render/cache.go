package render

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// diskCache keeps archives by their digest, the digest that each exact version had, and indexes. All of it may be
// deleted at any time. Files appear by renaming, so several processes can share a directory.
//
//	charts/<sha256>.tgz
//	pins/<sha256 of repository, name, version>.json
//	indexes/<sha256 of repository>.json
type diskCache struct {
	dir string

	mu   sync.Mutex
	pins map[Ref]string // digests read or written before
}

// pin says which archive an exact version was when it was fetched.
type pin struct {
	Repository string `json:"repository"`
	Name       string `json:"name"`
	Version    string `json:"version"`
	Digest     string `json:"digest"`
}

func newDiskCache(dir string) (*diskCache, error) {
	for _, sub := range []string{"charts", "pins", "indexes"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("making the chart cache: %w", err)
		}
	}
	return &diskCache{dir: dir, pins: map[Ref]string{}}, nil
}

// archive returns a cached archive, or nil when it is not there or no longer what it was.
func (c *diskCache) archive(digest string, limit int64) []byte {
	if !isHexSHA256(digest) {
		return nil
	}
	name := c.archiveFile(digest)
	info, err := os.Stat(name)
	if err != nil || info.Size() > limit {
		return nil
	}
	data, err := os.ReadFile(name)
	if err != nil || sha256Hex(data) != digest {
		return nil
	}
	return data
}

func (c *diskCache) putArchive(data []byte) error {
	return c.write(c.archiveFile(sha256Hex(data)), data)
}

func (c *diskCache) archiveFile(digest string) string {
	return filepath.Join(c.dir, "charts", digest+".tgz")
}

// pinned returns the digest of an exact version; empty when it was never fetched.
func (c *diskCache) pinned(r Ref) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if digest, ok := c.pins[r]; ok {
		return digest
	}
	var p pin
	if !c.readJSON(c.pinFile(r), &p) || p.Name != r.Name || p.Version != r.Version || p.Repository != r.Repository {
		return ""
	}
	c.pins[r] = p.Digest
	return p.Digest
}

// putPin remembers the digest of an exact version; it writes only what is new.
func (c *diskCache) putPin(r Ref, digest string) error {
	if c.pinned(r) == digest {
		return nil
	}
	p := pin{Repository: r.Repository, Name: r.Name, Version: r.Version, Digest: digest}
	if err := c.writeJSON(c.pinFile(r), p); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pins[r] = digest
	return nil
}

func (c *diskCache) pinFile(r Ref) string {
	return filepath.Join(c.dir, "pins", sha256Hex([]byte(r.Repository+"\n"+r.Name+"\n"+r.Version))+".json")
}

func (c *diskCache) index(repository string) *index {
	var i index
	if !c.readJSON(c.indexFile(repository), &i) {
		return nil
	}
	return &i
}

func (c *diskCache) putIndex(repository string, i *index) error {
	return c.writeJSON(c.indexFile(repository), i)
}

func (c *diskCache) indexFile(repository string) string {
	return filepath.Join(c.dir, "indexes", sha256Hex([]byte(repository))+".json")
}

func (c *diskCache) readJSON(name string, into any) bool {
	data, err := os.ReadFile(name)
	return err == nil && json.Unmarshal(data, into) == nil
}

func (c *diskCache) writeJSON(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing the chart cache: %w", err)
	}
	return c.write(name, data)
}

func (c *diskCache) write(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return fmt.Errorf("writing the chart cache: %w", err)
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		if rm := os.Remove(tmp.Name()); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			err = errors.Join(err, rm)
		}
		return fmt.Errorf("writing the chart cache: %w", err)
	}
	return nil
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// isHexSHA256 also keeps a digest from an index from being used as a path.
func isHexSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
