package gitserver

import (
	"io"
	"net/http"
	"os"
)

// spool replaces a body of unknown length by a file of known length.
func spool(r *http.Request, dir string) error {
	file, err := os.CreateTemp(dir, "body")
	if err != nil {
		return err
	}
	_ = os.Remove(file.Name()) // it lives as long as it is open
	length, err := io.Copy(file, r.Body)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	r.Body, r.ContentLength, r.TransferEncoding = file, length, nil
	return nil
}
