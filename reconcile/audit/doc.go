// Package audit is what the agent says in git, and what people say to it there: the files and commits of the status branch, the
// messages of rollback commits and of commands, and the sentences in which events are told everywhere else. It formats and
// parses; others push.
//
// The status branch holds
//
//	README.md         the Overview: a table of the apps for people, and what can't be delivered
//	environment.yaml  the Status of the environment as a whole
//	apps/<app>.yaml   the Record of an app
//
// and its history is the audit log: one commit for each event, whose trailers a program reads back with ParseMessage.
// The command branch holds what people ask, a Request each, in commits that change nothing.
//
// A Record is a fold over the app's events and nothing else, so that the branch can't say what the log doesn't.
//
// Everything here is a pure function of the branch's tip and of what is to be added to it, safe for concurrent use.
//
// Invariants: an event whose number the tip's Record has reached is not written again, so a batch may be sent any
// number of times; the events of an app are written in order; the work for a batch depends on the apps in it, and on
// the number of all apps only through the lines of README.md; no text of others (reasons, versions, faults) can start
// a line of a message or a cell of the table.
package audit
