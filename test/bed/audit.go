package bed

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Request is one request that the API server answered.
type Request struct {
	Time      time.Time
	User      string
	UserAgent string
	Verb      string // get, list, watch, create, update, patch, delete, deletecollection
	Group     string // of the API; "" for the core's
	Resource  string // "" for paths that are none, like /healthz
	// Subresource is "status", "scale" and the like; usually empty.
	Subresource string
	Namespace   string
	Name        string
	Path        string // with query
	Code        int
}

// auditEvent is the part of audit.k8s.io/v1 Event that Request shows.
type auditEvent struct {
	Stage      string
	RequestURI string
	Verb       string
	User       struct{ Username string }
	UserAgent  string
	ObjectRef  struct{ APIGroup, Resource, Subresource, Namespace, Name string }

	ResponseStatus           struct{ Code int }
	RequestReceivedTimestamp time.Time
}

// Requests reads the audit log: every request once, a watch from its start on.
// A request that was answered a moment ago may not be written yet.
func (b *Bed) Requests() ([]Request, error) {
	file, err := os.Open(b.AuditLog)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	defer func() { _ = file.Close() }()
	var requests []Request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEvent
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // cut short by a kill
		}
		if e.Stage == "ResponseComplete" && e.Verb == "watch" {
			continue // was there at its start
		}
		requests = append(requests, Request{
			Time: e.RequestReceivedTimestamp, User: e.User.Username, UserAgent: e.UserAgent, Verb: e.Verb,
			Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource, Subresource: e.ObjectRef.Subresource,
			Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name,
			Path: e.RequestURI, Code: e.ResponseStatus.Code,
		})
	}
	return requests, lines.Err()
}
