package gitsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/revlist"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/server"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
	"github.com/go-git/go-git/v5/utils/ioutil"

	"github.com/sluice-cd/sluice/gitsync/address"
)

// Repositories on this machine are served by go-git within the process. Hooks do not run, and reftable
// repositories are not understood.

// localRepo is a repository on this machine.
type localRepo struct {
	dir  string // the git directory, with branches and objects
	bare bool
	sto  *localStorage
}

func openLocal(loc address.Address) (*localRepo, error) {
	path, err := filepath.Abs(loc.Path)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", loc.Path, err)
	}
	dir, common, bare := gitDirs(path)
	if fi, err := os.Stat(filepath.Join(common, "objects")); err != nil || !fi.IsDir() {
		return nil, transport.ErrRepositoryNotFound
	}
	files := billy.Filesystem(sharedDir{osfs.New(common, osfs.WithBoundOS())})
	if dir != common {
		files = linkedTree{dotgit.NewRepositoryFilesystem(sharedDir{osfs.New(dir, osfs.WithBoundOS())}, files), common}
	}
	sto := filesystem.NewStorageWithOptions(files, cache.NewObjectLRU(8*cache.MiByte), filesystem.Options{
		AlternatesFS: osfs.New(string(filepath.Separator), osfs.WithBoundOS()),
	})
	return &localRepo{dir: common, bare: bare, sto: &localStorage{sto}}, nil
}

// gitDirs are the git directory of what is checked out at a path, and the one that has its branches and objects: a linked work
// tree shares those. A path that is no work tree is a bare repository.
func gitDirs(path string) (dir, common string, bare bool) {
	dir, bare = path, true
	switch fi, err := os.Stat(filepath.Join(path, ".git")); {
	case err != nil:
	case fi.IsDir():
		dir, bare = filepath.Join(path, ".git"), false
	default:
		if line, ok := strings.CutPrefix(firstLine(filepath.Join(path, ".git")), "gitdir: "); ok {
			dir, bare = from(path, line), false
		}
	}
	if line := firstLine(filepath.Join(dir, "commondir")); line != "" {
		return dir, from(dir, line), bare
	}
	return dir, dir, bare
}

// firstLine of a file; empty when there is none.
func firstLine(name string) string {
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// from is a path as seen from a directory.
func from(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// OpenLocal opens the repository on this machine at a path to be read, wherever git could: also a linked work tree, and what is
// sparse, shallow or borrows objects.
func OpenLocal(path string) (*git.Repository, error) {
	r, err := openLocal(address.Address{Path: path})
	if err != nil {
		return nil, err
	}
	return git.Open(r.sto, nil)
}

// localStorage is a repository's, whose configuration names no extension that does not matter to who reads commits.
type localStorage struct{ *filesystem.Storage }

// Config implements config.ConfigStorer.
func (s *localStorage) Config() (*config.Config, error) {
	c, err := s.Storage.Config()
	if err == nil && c.Raw != nil && c.Raw.HasSection("extensions") {
		for _, harmless := range []string{"worktreeConfig", "partialClone"} {
			c.Raw.Section("extensions").RemoveOption(harmless)
		}
	}
	return c, err
}

// partial reports whether git fetches objects of the repository when they are asked for (git clone --filter).
func (s *localStorage) partial() bool {
	c, err := s.Storage.Config()
	if err != nil || c.Raw == nil {
		return false
	}
	for _, remote := range c.Raw.Section("remote").Subsections {
		if remote.Option("promisor") == "true" {
			return true
		}
	}
	return c.Raw.Section("extensions").Option("partialClone") != ""
}

// boundary is where the history ends because the repository is shallow: the commits that its oldest ones name as parents.
func (s *localStorage) boundary() ([]plumbing.Hash, error) {
	oldest, err := s.Shallow()
	if err != nil {
		return nil, fmt.Errorf("reading where the history ends: %w", err)
	}
	var parents []plumbing.Hash
	for _, h := range oldest {
		c, err := object.GetCommit(s, h)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading where the history ends: %w", err)
		}
		parents = append(parents, c.ParentHashes...)
	}
	return parents, nil
}

// bounded takes the boundary for objects without anything behind them.
type bounded struct {
	*localStorage
	boundary []plumbing.Hash
}

// EncodedObject implements storer.EncodedObjectStorer.
func (b bounded) EncodedObject(t plumbing.ObjectType, h plumbing.Hash) (plumbing.EncodedObject, error) {
	if slices.Contains(b.boundary, h) {
		o := &plumbing.MemoryObject{}
		o.SetType(plumbing.BlobObject)
		return named{o, h}, nil
	}
	return b.localStorage.EncodedObject(t, h)
}

// named is an object under a name that is not its content's.
type named struct {
	plumbing.EncodedObject
	hash plumbing.Hash
}

// Hash implements plumbing.EncodedObject.
func (n named) Hash() plumbing.Hash { return n.hash }

// linkedTree is the git directory of a linked work tree, whose objects are in the common one. go-git opens a large object by the name
// of its open pack, which is not relative, and then looks for it below the work tree's own.
type linkedTree struct {
	billy.Filesystem
	common string
}

// Open implements billy.Filesystem.
func (f linkedTree) Open(name string) (billy.File, error) {
	if inside, ok := strings.CutPrefix(name, f.common+string(filepath.Separator)); ok {
		name = inside
	}
	return f.Filesystem.Open(name)
}

// sharedDir is a repository's directory while others write to it.
type sharedDir struct{ billy.Filesystem }

// listTries bounds how often a directory is listed because files in it come and go.
const listTries = 100

// ReadDir lists a directory again when a file went while it was listed: go-git takes that for a directory that is not
// there, and so for a repository without branches, or without objects. It hides git's lock files, which go-git lists as
// references. One that is just being written is empty, and that made reading any reference fail.
func (f sharedDir) ReadDir(path string) ([]os.FileInfo, error) {
	var infos []os.FileInfo
	var err error
	for range listTries {
		if infos, err = f.Filesystem.ReadDir(path); !errors.Is(err, os.ErrNotExist) {
			break
		}
		if _, gone := f.Stat(path); gone != nil {
			break
		}
	}
	return slices.DeleteFunc(infos, func(fi os.FileInfo) bool { return strings.HasSuffix(fi.Name(), ".lock") }), err
}

// Load makes a localRepo the only repository of a server.
func (r *localRepo) Load(*transport.Endpoint) (storer.Storer, error) { return r.sto, nil }

func openFileUpload(loc address.Address) (transport.UploadPackSession, error) {
	r, err := openLocal(loc)
	if err != nil {
		return nil, err
	}
	s, err := server.NewClient(r).NewUploadPackSession(nil, nil)
	if err != nil {
		return nil, err
	}
	return &fileUpload{UploadPackSession: s, repo: r}, nil
}

// fileUpload is go-git's in-process server without its intolerance of commits that it does not have.
type fileUpload struct {
	transport.UploadPackSession
	repo *localRepo
}

func (f *fileUpload) UploadPack(ctx context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	var known []plumbing.Hash
	for _, h := range req.Haves {
		if f.repo.sto.HasEncodedObject(h) == nil {
			known = append(known, h)
		}
	}
	req.Haves = known
	boundary, err := f.repo.sto.boundary()
	if err != nil {
		return nil, err
	}
	alternates := firstLine(filepath.Join(f.repo.dir, "objects", "info", "alternates")) != ""
	if len(boundary) == 0 && !alternates && !f.repo.sto.partial() {
		return f.UploadPackSession.UploadPack(ctx, req)
	}
	return f.uploadPart(ctx, req, boundary)
}

// uploadPart sends what go-git's server does not: a history that is not whole, and objects that another repository has.
func (f *fileUpload) uploadPart(ctx context.Context, req *packp.UploadPackRequest, boundary []plumbing.Hash) (*packp.UploadPackResponse, error) {
	sto := f.repo.sto
	hashes, err := revlist.ObjectsWithStorageForIgnores(sto, bounded{sto, boundary}, req.Wants, slices.Concat(req.Haves, boundary))
	if err != nil {
		return nil, fmt.Errorf("listing objects: %w", err)
	}
	if sto.partial() {
		// The files of old commits are elsewhere; who asks for one of these is told.
		hashes = slices.DeleteFunc(hashes, func(h plumbing.Hash) bool { return sto.HasEncodedObject(h) != nil })
	}
	r, w := io.Pipe()
	go func() {
		// Without a window the encoder asks for no deltas, which go-git does not find in another repository.
		_, err := packfile.NewEncoder(w, struct{ storer.EncodedObjectStorer }{sto}, false).Encode(hashes, 0)
		_ = w.CloseWithError(err)
	}()
	return packp.NewUploadPackResponseWithPackfile(req, ioutil.NewContextReadCloser(ctx, r)), nil
}

func openFileReceive(loc address.Address) (transport.ReceivePackSession, error) {
	r, err := openLocal(loc)
	if err != nil {
		return nil, err
	}
	s, err := server.NewClient(r).NewReceivePackSession(nil, nil)
	if err != nil {
		return nil, err
	}
	return &fileReceive{ReceivePackSession: s, repo: r}, nil
}

// fileReceive replaces how go-git's in-process server updates a reference, which ignores the old value.
type fileReceive struct {
	transport.ReceivePackSession
	repo *localRepo
}

func (f *fileReceive) ReceivePack(_ context.Context, req *packp.ReferenceUpdateRequest) (*packp.ReportStatus, error) {
	if req.Packfile != nil {
		if err := f.store(req); err != nil {
			return nil, fmt.Errorf("storing objects: %w", err)
		}
	}
	report := packp.NewReportStatus()
	report.UnpackStatus = "ok"
	for _, cmd := range req.Commands {
		status := "ok"
		if err := f.repo.update(cmd); err != nil {
			status = err.Error()
		}
		report.CommandStatuses = append(report.CommandStatuses, &packp.CommandStatus{ReferenceName: cmd.Name, Status: status})
	}
	return report, report.Error()
}

// storing is held while objects are stored: packs of equal content have one name, and go-git writes over the index of one that
// others may be reading.
var storing sync.Mutex

// store stores what is pushed, unless it is there.
func (f *fileReceive) store(req *packp.ReferenceUpdateRequest) error {
	storing.Lock()
	defer storing.Unlock()
	for _, cmd := range req.Commands {
		if f.repo.sto.HasEncodedObject(cmd.New) != nil {
			return packfile.UpdateObjectStorage(f.repo.sto, req.Packfile)
		}
	}
	return nil
}

// update moves a reference from cmd.Old to cmd.New with git's own lock protocol, so that it is safe beside git.
func (r *localRepo) update(cmd *packp.Command) (err error) {
	if err := cmd.Name.Validate(); err != nil {
		return err
	}
	if head, err := r.sto.Reference(plumbing.HEAD); err == nil && !r.bare && head.Target() == cmd.Name {
		return errors.New("branch is currently checked out")
	}
	path := filepath.Join(r.dir, filepath.FromSlash(cmd.Name.String()))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("cannot lock ref '%s': %w", cmd.Name, err)
	}
	defer func() {
		_ = lock.Close()
		if err != nil {
			_ = os.Remove(path + ".lock")
		}
	}()
	if err := r.expect(cmd.Name, cmd.Old); err != nil {
		return err
	}
	if _, err := io.Copy(lock, bytes.NewReader([]byte(cmd.New.String()+"\n"))); err != nil {
		return err
	}
	if err := lock.Close(); err != nil {
		return err
	}
	return os.Rename(path+".lock", path)
}

func (r *localRepo) expect(name plumbing.ReferenceName, old plumbing.Hash) error {
	ref, err := r.sto.Reference(name)
	switch {
	case errors.Is(err, plumbing.ErrReferenceNotFound):
		ref = plumbing.NewHashReference(name, plumbing.ZeroHash)
	case err != nil:
		return err
	}
	if ref.Hash() != old {
		return fmt.Errorf("cannot lock ref '%s': is at %s but expected %s", name, ref.Hash(), old)
	}
	return nil
}
