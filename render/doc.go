// Package render turns a chart, the environment's values and a cluster's capabilities into a Release: the text that
// helm template prints, and the objects in it, in the order in which they are applied.
//
// There are two halves. A Fetcher brings charts: from http(s) repositories, OCI registries, and directories of a
// snapshot. A Renderer has them rendered by a worker, a process of its own, which does no I/O but to be asked and to answer.
//
// # Parity with Helm
//
// Rendering one app of an umbrella chart gives, byte for byte, what helm template of the whole umbrella prints for
// that app: the same Source comments, globals, import-values, aliases, nested conditions and tags, and the umbrella's
// own named templates. The umbrella is rebuilt in memory around the one app, so the price of a render does not
// grow with the number of apps, and an app whose neighbour is broken still renders. Two consequences of
// rendering apart are deliberate: a named template of a neighbouring app is not seen (in Helm whichever app sorts
// first wins; see Overrides), and of a neighbour's import-values only those of [Input.Peers] reach this app.
//
// Rendering is hermetic: no DNS, no environment variables, no fetching of what a JSON schema refers to. What templates look up
// in the cluster the worker asks its parent, which answers as [Input.Lookup] has it, and what was told is part of the release.
//
// # Determinism
//
// Equal inputs give equal releases, with one exception that lies in the charts: templates that call randAlphaNum,
// genCA, now, uuidv4 and the like. Helm's engine does not let its functions be replaced, so such text differs
// each time it is rendered. Release.Digest therefore covers the inputs instead of the text for these charts, so that
// nothing ever looks like a new release by itself; a warning names the functions; and because releases are cached by
// input, such a chart is normally rendered once in the life of a process.
//
// # Concurrency and sharing
//
// Fetcher and Renderer are safe for concurrent use. Equal requests that overlap are done once. Charts and releases that
// they hand out are shared and must not be changed.
//
// # Trust
//
// Charts, indexes and archives are hostile input. Templates can take all memory, overflow the stack or never come to an
// end, and nothing in a process can keep another part of it from that: [BeWorker] gives up files, network, environment and
// all but so much memory, stack and CPU time before it reads a chart, and its death is the fault of what it rendered,
// which is remembered. Everything is read through limits, links and paths that leave their root are refused, digests are verified when an archive arrives and again when it is read from the cache. Credentials
// are sent to the origin that they were given for and to no other, and never appear in an error.
package render
