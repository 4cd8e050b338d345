package forge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/gitsync/redact"
)

// maxAnswer bounds one answer, in bytes: a page of a hundred pull requests with long texts.
const maxAnswer = 16 << 20

// maxRefusal bounds what is read of an answer that is an error, in bytes.
const maxRefusal = 16 << 10

// secondaryWait is how long to wait when a forge limits requests and does not say for how long; GitHub asks for a minute.
const secondaryWait = time.Minute

// requests signs what goes to one host, and judges what comes back. The forges' clients differ in what they keep of a refusal,
// so none of them sees one: it becomes a fault here.
type requests struct {
	next  http.RoundTripper
	host  string
	token func(context.Context) (string, error) // nil: somebody else signs
}

// RoundTrip implements http.RoundTripper.
func (t *requests) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != t.host {
		// A redirect, which Go follows; the token is for one host.
		return nil, &fault{text: "the forge sends elsewhere, to " + r.URL.Host + ": use the address and API that it has now"}
	}
	secret, err := t.sign(&r)
	if err != nil {
		return nil, err
	}
	res, err := t.next.RoundTrip(r)
	if err != nil {
		if r.Context().Err() != nil {
			return nil, err
		}
		return nil, &fault{kind: ErrUnavailable, text: redact.Message(err.Error(), secret)}
	}
	if res.StatusCode >= http.StatusBadRequest {
		defer res.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxRefusal))
		return nil, judge(res, redact.Message(said(body), secret), time.Now())
	}
	res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	return res, nil
}

// sign adds the token to a copy of the request, and gives the credential that the request has.
func (t *requests) sign(r **http.Request) (secret string, err error) {
	if t.token != nil {
		if secret, err = t.token((*r).Context()); err != nil {
			return "", &fault{kind: err, text: "reading the token: " + redact.Message(err.Error())}
		}
		if secret == "" || strings.ContainsAny(secret, " \r\n") {
			return "", &fault{kind: ErrUnauthorized, text: ErrUnauthorized.Error() + ": it is empty, or has spaces in it"}
		}
		*r = (*r).Clone((*r).Context())
		(*r).Header.Set("Authorization", "Bearer "+secret)
		return secret, nil
	}
	_, secret, _ = strings.Cut((*r).Header.Get("Authorization"), " ")
	return secret, nil
}

// fault is a refusal of the forge, or its silence.
type fault struct {
	kind   error // one of the package's errors, or nil
	status int
	text   string // for people, without secrets
	said   string // what the forge said of it
}

// Error implements error.
func (f *fault) Error() string { return f.text }

// Unwrap gives the kind.
func (f *fault) Unwrap() error { return f.kind }

// as is the fault with another kind; the reason is the forge's.
func (f *fault) as(kind error) error {
	return &fault{kind: kind, status: f.status, text: kind.Error() + ": " + f.said, said: f.said}
}

// judge tells what a refusal means.
func judge(res *http.Response, said string, now time.Time) *fault {
	f := &fault{status: res.StatusCode, said: said}
	if until, ok := limited(res, said, now); ok {
		f.kind = Limited{until}
	} else {
		f.kind = kinds[res.StatusCode]
		if res.StatusCode >= http.StatusInternalServerError {
			f.kind = ErrUnavailable
		}
	}
	f.text = res.Status
	if said != "" {
		f.text += ": " + said
	}
	if f.kind != nil {
		f.text = f.kind.Error() + " (" + f.text + ")"
	}
	return f
}

var kinds = map[int]error{
	http.StatusUnauthorized:   ErrUnauthorized,
	http.StatusForbidden:      ErrForbidden,
	http.StatusNotFound:       ErrNotFound,
	http.StatusGone:           ErrNotFound,
	http.StatusRequestTimeout: ErrUnavailable,
	http.StatusConflict:       ErrConflict,
}

// limited tells whether a refusal is of too many requests, and until when. GitHub says so with 403 as well, and of its secondary
// limits at times in words only; GitLab and proxies before Gitea with 429.
func limited(res *http.Response, said string, now time.Time) (until time.Time, ok bool) {
	spent := res.Header.Get("X-RateLimit-Remaining") == "0"
	switch after := res.Header.Get("Retry-After"); {
	case res.StatusCode != http.StatusForbidden && res.StatusCode != http.StatusTooManyRequests:
		return time.Time{}, false
	case after != "":
		if seconds, err := strconv.Atoi(after); err == nil && seconds >= 0 {
			return now.Add(time.Duration(min(seconds, 24*60*60)) * time.Second), true
		}
		if t, err := http.ParseTime(after); err == nil {
			return t, true
		}
	case res.StatusCode == http.StatusForbidden && !spent && !strings.Contains(strings.ToLower(said), "rate limit"):
		return time.Time{}, false
	}
	for _, header := range []string{"X-RateLimit-Reset", "RateLimit-Reset"} {
		seconds, err := strconv.ParseInt(res.Header.Get(header), 10, 64)
		if t := time.Unix(seconds, 0); err == nil && t.After(now) && (spent || res.StatusCode == http.StatusTooManyRequests) {
			return t, true
		}
	}
	return now.Add(secondaryWait), true
}

// said is what an answer says to people, in one line.
func said(body []byte) string {
	var answer struct {
		Message     json.RawMessage   `json:"message"`
		Error       json.RawMessage   `json:"error"`
		Description string            `json:"error_description"`
		Errors      []json.RawMessage `json:"errors"`
	}
	if json.Unmarshal(body, &answer) != nil {
		text := string(body)
		if strings.HasPrefix(strings.TrimSpace(text), "<") {
			return "" // a proxy's page
		}
		return strings.Join(strings.Fields(text), " ")
	}
	parts := append([]json.RawMessage{answer.Message, answer.Error}, answer.Errors...)
	var words []string
	for _, part := range parts {
		if text := plain(part); text != "" {
			words = append(words, text)
		}
	}
	if answer.Description != "" {
		words = append(words, answer.Description)
	}
	return strings.Join(words, ": ")
}

// plain is the text of a part of an answer: a string, an object with a message, or whatever JSON it is.
func plain(part json.RawMessage) string {
	var text string
	var object struct {
		Message string `json:"message"`
	}
	switch {
	case len(part) == 0 || string(part) == "null":
		return ""
	case json.Unmarshal(part, &text) == nil:
	case json.Unmarshal(part, &object) == nil && object.Message != "":
		text = object.Message
	default:
		text = string(part)
	}
	return strings.Join(strings.Fields(text), " ")
}

// forPeople is an error of a client as people should see it: a fault alone, and without what the client wrote around it.
func forPeople(err error) error {
	var f *fault
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &large):
		return fmt.Errorf("the answer is larger than %d bytes", large.Limit)
	}
	return &redact.Error{Text: redact.Message(err.Error()), Err: err}
}
