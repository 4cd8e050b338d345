package gitsync

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1" //nolint:gosec // git's object format
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
)

// spoolInMemory is the size in bytes up to which a pack is checked in memory rather than in a file.
const spoolInMemory = 1 << 20

// minEntry is the least number of bytes that an object can take in a pack: a header and an empty zlib stream.
const minEntry = 9

// spool holds a pack while it is checked.
type spool struct {
	mem  bytes.Buffer
	file *os.File // nil while it fits into memory
	size int64
}

// spoolPack reads a pack of at most limit bytes; dir takes the file of a large one. Close the spool.
func spoolPack(r io.Reader, dir string, limit int64) (*spool, error) {
	r = &boundedReader{r: r, left: limit, limit: limit, what: "the pack"}
	s := &spool{}
	n, err := io.Copy(&s.mem, io.LimitReader(r, spoolInMemory))
	s.size = n
	if err != nil || n < spoolInMemory {
		return s, err
	}
	if s.file, err = os.CreateTemp(dir, "pack-*.tmp"); err != nil {
		return s, err
	}
	if _, err = io.Copy(s.file, &s.mem); err != nil {
		return s, err
	}
	s.mem = bytes.Buffer{}
	n, err = io.Copy(s.file, r)
	s.size += n
	return s, err
}

// reader reads the pack from its start.
func (s *spool) reader() (io.Reader, error) {
	if s.file == nil {
		return bytes.NewReader(s.mem.Bytes()), nil
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return s.file, err
}

func (s *spool) Close() error {
	if s.file == nil {
		return nil
	}
	return errors.Join(s.file.Close(), os.Remove(s.file.Name()))
}

// checkPack makes sure that go-git can parse a pack without harm: the number of objects is plausible (go-git
// reserves memory for as many as the header says), no object is larger than maxObject once inflated and undeltified, and all
// together are not than maxInflated.
func checkPack(ctx context.Context, r io.Reader, size, maxObject, maxInflated int64) (objects uint32, err error) {
	// The scanner must not seek: hiding Seek keeps it in one pass.
	s := packfile.NewScanner(struct{ io.Reader }{r})
	_, objects, err = s.Header()
	if err != nil {
		return 0, err
	}
	if int64(objects) > size/minEntry {
		return 0, fmt.Errorf("malformed pack: %d objects in %d bytes", objects, size)
	}
	var head deltaHead
	var inflated int64
	for range objects {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		h, err := s.NextObjectHeader()
		if err != nil {
			return 0, err
		}
		if h.Length > maxObject {
			return 0, tooLarge("an object", maxObject)
		}
		head.reset()
		n, _, err := s.NextObject(&head)
		if err != nil {
			return 0, err
		}
		if n != h.Length {
			return 0, fmt.Errorf("malformed pack: object of %d bytes where %d were announced", n, h.Length)
		}
		inflated += h.Length
		switch target, ok := head.target(); {
		case h.Type.IsDelta() && (!ok || target > uint64(maxObject)):
			return 0, tooLarge("an object", maxObject)
		case h.Type.IsDelta():
			inflated += int64(target)
		case !h.Type.Valid():
			return 0, fmt.Errorf("malformed pack: object type %d", h.Type)
		}
		if inflated > maxInflated {
			return 0, tooLarge("the pack, once it is unpacked,", maxInflated)
		}
	}
	_, err = s.Checksum()
	return objects, err
}

// deltaHead keeps the first bytes of a delta, where the sizes of base and target are.
type deltaHead struct {
	b [2 * binary.MaxVarintLen64]byte
	n int
}

func (d *deltaHead) reset() { d.n = 0 }

func (d *deltaHead) Write(p []byte) (int, error) {
	d.n += copy(d.b[d.n:], p)
	return len(p), nil
}

// target is the size of the object that the delta makes.
func (d *deltaHead) target() (uint64, bool) {
	b := d.b[:d.n]
	_, n := binary.Uvarint(b) // git's sizes in deltas are the varints of encoding/binary
	if n <= 0 {
		return 0, false
	}
	size, n := binary.Uvarint(b[n:])
	return size, n > 0
}

// packObject is an object to be packed.
type packObject struct {
	typ  plumbing.ObjectType
	hash plumbing.Hash
	data []byte
}

func newObject(typ plumbing.ObjectType, data []byte) packObject {
	return packObject{typ: typ, hash: plumbing.ComputeHash(typ, data), data: data}
}

// packEncoder writes a pack without deltas.
type packEncoder struct {
	w    io.Writer // to the pack and its hash
	out  io.Writer
	hash hash.Hash
	zip  *zlib.Writer
}

// newPackEncoder begins a pack of count objects.
func newPackEncoder(out io.Writer, count int) (*packEncoder, error) {
	h := sha1.New() //nolint:gosec // git's object format
	e := &packEncoder{w: io.MultiWriter(out, h), out: out, hash: h, zip: zlib.NewWriter(nil)}
	head := append([]byte("PACK"), 0, 0, 0, 2)
	_, err := e.w.Write(binary.BigEndian.AppendUint32(head, uint32(count)))
	return e, err
}

func (e *packEncoder) add(o packObject) error {
	n := uint64(len(o.data))
	c := byte(o.typ)<<4 | byte(n&0x0f)
	n >>= 4
	var head []byte
	for n > 0 {
		head = append(head, c|0x80)
		c = byte(n & 0x7f)
		n >>= 7
	}
	if _, err := e.w.Write(append(head, c)); err != nil {
		return err
	}
	e.zip.Reset(e.w)
	if _, err := e.zip.Write(o.data); err != nil {
		return err
	}
	return e.zip.Close()
}

func (e *packEncoder) finish() error {
	_, err := e.out.Write(e.hash.Sum(nil))
	return err
}

// encodePack packs objects in memory.
func encodePack(objects []packObject) ([]byte, error) {
	var buf bytes.Buffer
	e, err := newPackEncoder(&buf, len(objects))
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		if err := e.add(o); err != nil {
			return nil, err
		}
	}
	err = e.finish()
	return buf.Bytes(), err
}
