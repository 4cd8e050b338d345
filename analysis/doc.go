// Package analysis judges a release by its metrics.
//
// It has three parts that meet in data. [NewCheck] turns a metric of a policy into a [Check]: PromQL with
// everything filled in, and the limits. A metrics server (package analysis/prometheus) answers each check with a
// [Sample]. [Evaluate] compares the two and gives a [Verdict] with the numbers in its reasons.
//
// Everything here is pure: no clock, no I/O, no state, safe for concurrent use. The rule that the rest of the
// program leans on is that the absence of knowledge is never a failure: no traffic, no series, NaN, a server that
// is down or has a part of the data only, and a query that it refuses are all [Inconclusive]. Only a number outside its limits is a [Fail], and
// one failure outweighs any number of inconclusive checks, since every check is asked and reported.
package analysis
