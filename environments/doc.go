// Package environments reads what an environment repository says: its apps with their charts, versions and
// values, the policy by which each is delivered, and the text edits that put a failed release back.
//
// The package is pure: it reads an [io/fs.FS], asks no clock and no network, and writes nothing. A [Loader] may be
// used from several goroutines; everything else is a function. What Load returns is shared between snapshots and
// must not be changed.
//
// Three rules hold throughout:
//   - A fault of one app is that app's ([App.Fault]); the others go on. Only what leaves nothing to say about the
//     environment as a whole is an error of [Loader.Load].
//   - A fault names the file, the line, the field and what was expected ([Fault]), and never a value of
//     values.yaml, which may be a secret.
//   - Work is proportional to the change: texts are split into entries and each entry is parsed once for its
//     content, so that a new version of one app of ten thousand parses one entry.
package environments
