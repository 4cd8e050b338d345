package gitsync

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// Identity is who made a commit.
type Identity struct {
	Name, Email string
}

func (i Identity) String() string { return i.Name + " <" + i.Email + ">" }

// Commit is one commit of a branch's history.
type Commit struct {
	Hash string
	// Parents; the first is the commit that the branch pointed at before.
	Parents           []string
	Author, Committer Identity
	// AuthorTime is when the change was made, Time when it was committed.
	AuthorTime, Time time.Time
	// Message in full; its first line is Subject.
	Message string
	// Signature of Signed, in armour; empty: there is none.
	Signature string
	Signed    []byte

	tree plumbing.Hash
}

// Subject is the first line of the message.
func (c Commit) Subject() string {
	line, _, _ := strings.Cut(strings.TrimLeft(c.Message, "\n"), "\n")
	return line
}

var errCommit = errors.New("malformed commit")

// signatureKey is the header that holds a commit's signature.
const signatureKey = "gpgsig"

// cutSignature takes the signature out of the headers of a commit. What is left, with the message, is what was signed.
func cutSignature(head []byte) (signature string, rest []byte) {
	var sig strings.Builder
	within := false
	for line := range bytes.Lines(head) {
		value, begins := bytes.CutPrefix(line, []byte(signatureKey+" "))
		more, goesOn := bytes.CutPrefix(line, []byte(" "))
		switch {
		case begins:
			sig.Write(value)
			within = true
		case within && goesOn:
			sig.Write(more)
		default:
			rest = append(rest, line...)
			within = false
		}
	}
	return sig.String(), rest
}

// parseCommit reads a commit object. Headers that it does not know are skipped.
func parseCommit(hash plumbing.Hash, raw []byte) (*Commit, error) {
	c := &Commit{Hash: hash.String()}
	head, message, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok {
		head = bytes.TrimSuffix(raw, []byte("\n")) // a commit without a message
	}
	c.Message = strings.ToValidUTF8(string(message), "\uFFFD")
	if bytes.Contains(head, []byte("\n"+signatureKey+" ")) {
		c.Signature, head = cutSignature(append(bytes.Clone(head), '\n'))
		c.Signed = append(append(bytes.Clone(head), '\n'), message...)
	}
	tree := false
	for line := range bytes.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		switch key {
		case "tree":
			tree = plumbing.IsHash(value)
			c.tree = plumbing.NewHash(value)
		case "parent":
			if !plumbing.IsHash(value) {
				return nil, errCommit
			}
			c.Parents = append(c.Parents, value)
		case "author":
			c.Author, c.AuthorTime = parseIdentity(value)
		case "committer":
			c.Committer, c.Time = parseIdentity(value)
		}
	}
	if !tree {
		return nil, errCommit
	}
	return c, nil
}

// parseIdentity reads "Name <email> seconds zone" and makes the best of anything else, as git does.
func parseIdentity(s string) (Identity, time.Time) {
	s = strings.ToValidUTF8(s, "\uFFFD")
	end := strings.LastIndexByte(s, '>')
	begin := strings.IndexByte(s, '<')
	if begin < 0 || end < begin {
		return Identity{Name: s}, time.Time{}
	}
	id := Identity{Name: strings.TrimSpace(s[:begin]), Email: s[begin+1 : end]}
	var seconds int64
	zone := time.UTC
	fields := strings.Fields(s[end+1:])
	if len(fields) > 0 {
		seconds, _ = strconv.ParseInt(fields[0], 10, 64)
	}
	if len(fields) > 1 {
		if hm, err := strconv.Atoi(fields[1]); err == nil && hm > -2400 && hm < 2400 && hm != 0 {
			zone = time.FixedZone("", (hm/100*60+hm%100)*60)
		}
	}
	return id, time.Unix(seconds, 0).In(zone)
}

// encodeCommit makes a commit object.
func encodeCommit(c *Commit) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "tree %s\n", c.tree)
	for _, p := range c.Parents {
		fmt.Fprintf(&b, "parent %s\n", p)
	}
	for _, line := range []struct {
		key  string
		id   Identity
		time time.Time
	}{{"author", c.Author, c.AuthorTime}, {"committer", c.Committer, c.Time}} {
		if line.id.Name == "" || strings.ContainsAny(line.id.Name+line.id.Email, "<>\n\x00") {
			return nil, fmt.Errorf("%s %q: a name is needed, and no <, > or line break in it or the email", line.key, line.id)
		}
		fmt.Fprintf(&b, "%s %s <%s> %d %s\n", line.key, line.id.Name, line.id.Email, line.time.Unix(), line.time.Format("-0700"))
	}
	message := strings.TrimSpace(c.Message)
	if message == "" || strings.ContainsRune(message, 0) {
		return nil, errors.New("a commit needs a message, without NUL")
	}
	b.WriteString("\n" + message + "\n")
	return b.Bytes(), nil
}

// sign puts a signature into a commit object.
func sign(raw []byte, signature string) []byte {
	head, message, _ := bytes.Cut(raw, []byte("\n\n"))
	lines := strings.Split(strings.TrimRight(signature, "\n"), "\n")
	return slices.Concat(head, []byte("\n"+signatureKey+" "+strings.Join(lines, "\n ")+"\n\n"), message)
}
