package registry

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
)

// encoded reports whether the body of resp has been compressed on its way. Nobody asked for it, but
// RFC 9110, 12.5.3, allows it, and some servers and proxies do it.
func encoded(resp *http.Response) bool {
	switch strings.ToLower(resp.Header.Get("Content-Encoding")) {
	case "gzip", "x-gzip":
		return true
	}
	return false
}

// decode makes the body of resp the bytes that were stored, size of them. Some object stores say of a
// blob that is compressed itself that it is encoded: then there are as many as there have to be.
func decode(resp *http.Response, size int64) {
	if resp.StatusCode != http.StatusOK || !encoded(resp) || resp.ContentLength == size {
		return
	}
	resp.Body, resp.ContentLength = &gzipBody{body: resp.Body}, -1
	resp.Header.Del("Accept-Ranges")
}

// gzipBody is a body without its encoding.
type gzipBody struct {
	body io.ReadCloser
	z    *gzip.Reader
}

// Read implements io.Reader.
func (b *gzipBody) Read(p []byte) (int, error) {
	if b.z == nil {
		z, err := gzip.NewReader(b.body)
		if err != nil {
			return 0, err
		}
		b.z = z
	}
	return b.z.Read(p)
}

// Close implements io.Closer.
func (b *gzipBody) Close() error { return b.body.Close() }

// decodeDocument undoes the encoding of a JSON document, at most limit bytes.
func decodeDocument(resp *http.Response, body []byte, limit int64) ([]byte, error) {
	if !encoded(resp) || !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		return body, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return readLimited(z, limit)
}
