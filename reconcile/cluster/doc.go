// Package cluster is the only part of Sluice that writes to Kubernetes. It makes a cluster hold what
// reconcile/project says (server-side apply, then prune), says how far the cluster is from it (Observe),
// keeps the state of each app beside the app, keeps releases as ordinary Helm release Secrets, and elects
// the one agent that may do all this.
//
// # Only what changed
//
// For each object the client remembers the hash of what was last applied and a fingerprint of the object that
// the API server answered with: its uid, labels, annotations and generation (for kinds without one, its
// resourceVersion). Watches of metadata alone keep the live fingerprints up to date, so an object whose two
// marks are unchanged costs no request. Both marks are saved with the inventory; a restart compares them and
// writes nothing. Where a mark is missing or differs the live object is read, and patched only if a field that
// we own is gone or different, or if we own one that is no longer wanted. A change of status is neither.
//
// # What is kept where
//
// One Secret for each app, in Config.Namespace, holds its State and its inventory. It is a Secret and not a
// ConfigMap because the inventory's hashes cover the app's Secrets, and a hash of a short password lets whoever
// reads it try passwords. Its resourceVersion is the lock against a second writer.
//
// # Prune
//
// An object is deleted only if it is in the app's inventory, is no longer desired, everything desired was
// applied, the live object has the recorded uid, says that it belongs to the same Helm release, and does not
// ask to be kept (sluice.dev/prune: disabled, helm.sh/resource-policy: keep). CRDs, Namespaces,
// PersistentVolumes and their claims are never deleted, and nothing is while nothing at all is desired, unless
// the app is being removed. An object enters the inventory before it is created, so a crash leaks nothing.
//
// # Concurrency
//
// A Client is safe for concurrent use by many goroutines as long as each app is in the hands of one at a time.
// The function given to OnChange is called from the watches' goroutines and must not block.
//
// # Invariants
//
// There is one writer: a State that somebody else has written is never overwritten (ErrConflict). Objects are
// never deleted in order to be created anew. No pod template is changed by taking over from another tool. The
// content of Secrets is in no error and no log.
package cluster
