package registry

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestEncodedAnswers: a server or a proxy compresses what nobody asked it to.
func TestEncodedAnswers(t *testing.T) {
	manifest, manifestBytes := document(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
	})
	desc, data := blob(11, 300<<10)
	for name, sent := range map[string]struct {
		compress, chunked bool
	}{
		"compressed":             {true, false},
		"compressed, no length":  {true, true},
		"said to be, but is not": {false, false},
	} {
		t.Run(name, func(t *testing.T) {
			host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				body := manifestBytes
				if strings.Contains(q.URL.Path, "/blobs/") {
					body = data
				}
				if sent.compress {
					body = compressed(t, body)
				}
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				w.Header().Set("Docker-Content-Digest", manifest.Digest.String())
				if sent.chunked {
					w.(http.Flusher).Flush()
				} else {
					w.Header().Set("Content-Length", strconv.Itoa(len(body)))
				}
				_, _ = w.Write(body)
			}))
			c, _ := newTestClient(Options{})
			r := repository(t, c, host+"/app")
			got, err := r.Resolve(t.Context(), "latest")
			if err != nil || got.Digest != manifest.Digest || got.Size != manifest.Size {
				t.Errorf("got %v, %v, want %v", got, err, manifest)
			}
			for _, d := range []ocispec.Descriptor{manifest, desc} {
				want := manifestBytes
				if d.Digest == desc.Digest {
					want = data
				}
				if b, err := fetch(t.Context(), r, d); err != nil || !bytes.Equal(b, want) {
					t.Errorf("%s: %d bytes, %v", d.MediaType, len(b), err)
				}
			}
		})
	}
}

func compressed(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestLifeOfTokens: whatever form a server gives it.
func TestLifeOfTokens(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`300`: 250 * time.Second, `300.0`: 250 * time.Second, `"300"`: 250 * time.Second, `null`: 50 * time.Second,
		`-5`: 50 * time.Second, `"NaN"`: 50 * time.Second, `[]`: 50 * time.Second, `1e300`: (1<<24)*time.Second - (1<<24)*time.Second/6,
	} {
		c, _ := newTestClient(Options{})
		now := time.Now()
		c.now = func() time.Time { return now }
		host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.WriteString(w, fmt.Sprintf(`{"access_token":"x","expires_in":%s}`, text))
		}))
		h := c.host(host)
		h.auth.challenge = &challenge{"bearer", map[string]string{"realm": "http://" + host + "/token"}}
		if header, err := h.auth.header(t.Context(), scope{repository: "app"}); err != nil || header != "Bearer x" {
			t.Errorf("%s: got %q, %v", text, header, err)
		}
		for _, token := range h.auth.tokens {
			if got := token.expires.Sub(now); got != want {
				t.Errorf("%s: got %v, want %v", text, got, want)
			}
		}
	}
}
