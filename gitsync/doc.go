// Package gitsync reads branches of git remotes and commits to them, without a work tree and without the git
// program.
//
// A [Repo] keeps the objects of one branch in a directory of its own and hands out a [Snapshot] of each commit:
// an fs.FS that reads straight from the object store. A [Poller] asks for new commits at an interval. A [Writer]
// commits to a branch: each edit is a function of the branch's tip, its trees and blobs are built in memory, and
// the push names the tip that it was built on, so that somebody else's commit is never overwritten.
//
// # Trust
//
// The remote is authenticated (TLS, or SSH with known_hosts) but what it sends is not trusted: packs are counted
// and checked before go-git parses them, objects above a limit are refused, trees are validated, symlinks never
// lead out of a snapshot, submodules are never followed. Redirects to another host are refused. Errors carry no
// credentials: every one that leaves the package went through Remote.fault, which removes user info from URLs and
// the secrets in use from any text.
//
// # Concurrency
//
// All types are safe for concurrent use. A directory belongs to one Repo or Writer of one process at a time. It
// is a cache: whatever is found broken in it is fetched anew, and it may be deleted while nobody runs.
//
// # Invariants
//
//   - Snapshots of one commit hold the same bytes, forever.
//   - A push updates the branch only if it still points at the commit that the edit saw.
//   - Nothing outside the directories given to Open and NewWriter is written (except by file:// remotes, which
//     are a directory).
package gitsync
