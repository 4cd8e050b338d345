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

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/server"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// Repositories on this machine are served by go-git within the process. Hooks do not run, and reftable
// repositories are not understood.

// localRepo is a repository on this machine.
type localRepo struct {
	dir  string // the git directory
	bare bool
	sto  *filesystem.Storage
}

func openLocal(loc location) (*localRepo, error) {
	dir, bare := loc.path, true
	if fi, err := os.Stat(filepath.Join(dir, ".git")); err == nil && fi.IsDir() {
		dir, bare = filepath.Join(dir, ".git"), false
	}
	if fi, err := os.Stat(filepath.Join(dir, "objects")); err != nil || !fi.IsDir() {
		return nil, transport.ErrRepositoryNotFound
	}
	sto := filesystem.NewStorage(sharedDir{osfs.New(dir, osfs.WithBoundOS())}, cache.NewObjectLRU(8*cache.MiByte))
	return &localRepo{dir: dir, bare: bare, sto: sto}, nil
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

func openFileUpload(loc location) (transport.UploadPackSession, error) {
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
	return f.UploadPackSession.UploadPack(ctx, req)
}

func openFileReceive(loc location) (transport.ReceivePackSession, error) {
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
		if err := packfile.UpdateObjectStorage(f.repo.sto, req.Packfile); err != nil {
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
