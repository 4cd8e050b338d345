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
	"slices"
	"strings"
	"sync"
	"time"
)

// diskCache keeps archives by their digest, the digest that each exact version had, and indexes. All of it may be
// deleted at any time. Files appear by renaming, so several processes can share a directory. Archives that were not
// read for the longest time go when there are more than the budget holds.
//
//	charts/<sha256>.tgz, <sha256>.prov
//	checks/, for as long as a signature is looked at
//	pins/<sha256 of repository, name, version>.json
//	indexes/<sha256 of repository>.json
type diskCache struct {
	dir    string
	budget int64 // bytes of archives
	now    func() time.Time

	mu   sync.Mutex
	pins map[Ref]pin // read or written before
	used int64       // bytes of archives, as far as this process knows
}

// pin says which archive an exact version was when it was fetched.
type pin struct {
	Repository string `json:"repository"`
	Name       string `json:"name"`
	Version    string `json:"version"`
	Digest     string `json:"digest"`
	// Archive is the URL that the index gave, without its query; empty where the chart's own says it.
	Archive string `json:"archive,omitempty"`
}

func newDiskCache(dir string, budget int64, now func() time.Time) (*diskCache, error) {
	c := &diskCache{dir: dir, budget: budget, now: now, pins: map[Ref]pin{}}
	for _, sub := range []string{"charts", "checks", "pins", "indexes"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("making the chart cache: %w", err)
		}
		if err := c.removeLeftovers(sub); err != nil {
			return nil, fmt.Errorf("cleaning the chart cache: %w", err)
		}
	}
	if err := c.prune(); err != nil {
		return nil, err
	}
	return c, nil
}

const tempPrefix = ".tmp-"

// removeLeftovers removes files that a process did not live to rename. Those of a process that is at work are younger.
func (c *diskCache) removeLeftovers(sub string) error {
	entries, err := os.ReadDir(filepath.Join(c.dir, sub))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		info, err := e.Info()
		if err == nil && c.now().Sub(info.ModTime()) > time.Hour {
			err = os.RemoveAll(filepath.Join(c.dir, sub, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// prune counts the archives and, when they are more than the budget, removes those that were not read for the longest
// time until three quarters are left, and the pins that led to them.
func (c *diskCache) prune() error {
	archives, err := os.ReadDir(filepath.Join(c.dir, "charts"))
	if err != nil {
		return fmt.Errorf("pruning the chart cache: %w", err)
	}
	var files []fs.FileInfo
	var used int64
	for _, a := range archives {
		// What is gone by now was removed by another process.
		if info, err := a.Info(); err == nil {
			files, used = append(files, info), used+info.Size()
		}
	}
	removed := false
	if used > c.budget {
		slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
		for _, f := range files {
			if used <= c.budget/4*3 {
				break
			}
			if err := os.Remove(filepath.Join(c.dir, "charts", f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("pruning the chart cache: %w", err)
			}
			used, removed = used-f.Size(), true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used = used
	if !removed {
		return nil
	}
	clear(c.pins)
	return c.prunePins()
}

// prunePins removes the pins that lead to no archive.
func (c *diskCache) prunePins() error {
	pins, err := os.ReadDir(filepath.Join(c.dir, "pins"))
	if err != nil {
		return fmt.Errorf("pruning the chart cache: %w", err)
	}
	for _, e := range pins {
		name := filepath.Join(c.dir, "pins", e.Name())
		var p pin
		if strings.HasPrefix(e.Name(), tempPrefix) || c.readJSON(name, &p) && isHexSHA256(p.Digest) && exists(c.archiveFile(p.Digest)) {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("pruning the chart cache: %w", err)
		}
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
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
	// For prune; a directory that can only be read still serves.
	_ = os.Chtimes(name, time.Time{}, c.now())
	return data
}

// provenance returns what is kept of who signed an archive; nil: nothing.
func (c *diskCache) provenance(digest string) []byte {
	if !isHexSHA256(digest) {
		return nil
	}
	name := c.provenanceFile(digest)
	data, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	_ = os.Chtimes(name, time.Time{}, c.now())
	return data
}

// checks is a directory for what lasts as long as a signature is looked at.
func (c *diskCache) checks() string { return filepath.Join(c.dir, "checks") }

// put keeps an archive, with its provenance where it has one.
func (c *diskCache) put(r received) error {
	digest := sha256Hex(r.archive)
	if err := c.write(c.archiveFile(digest), r.archive); err != nil {
		return err
	}
	if r.provenance != nil {
		if err := c.write(c.provenanceFile(digest), r.provenance); err != nil {
			return err
		}
	}
	c.mu.Lock()
	c.used += int64(len(r.archive) + len(r.provenance))
	over := c.used > c.budget
	c.mu.Unlock()
	if !over {
		return nil
	}
	return c.prune()
}

func (c *diskCache) archiveFile(digest string) string {
	return filepath.Join(c.dir, "charts", digest+".tgz")
}

func (c *diskCache) provenanceFile(digest string) string {
	return filepath.Join(c.dir, "charts", digest+".prov")
}

// pinned returns what an exact version was; its digest is empty when it was never fetched.
func (c *diskCache) pinned(r Ref) pin {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pins[r]; ok {
		return p
	}
	var p pin
	if !c.readJSON(c.pinFile(r), &p) || p.Name != r.Name || p.Version != r.Version || p.Repository != r.Repository {
		return pin{}
	}
	c.pins[r] = p
	return p
}

// putPin remembers what an exact version was; it writes only what is new.
func (c *diskCache) putPin(r Ref, digest, archive string) error {
	p := pin{Repository: r.Repository, Name: r.Name, Version: r.Version, Digest: digest, Archive: archive}
	if c.pinned(r) == p {
		return nil
	}
	if err := c.writeJSON(c.pinFile(r), p); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pins[r] = p
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
	tmp, err := os.CreateTemp(filepath.Dir(name), tempPrefix+"*")
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
