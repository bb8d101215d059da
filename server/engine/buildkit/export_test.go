package buildkit

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/util/grpcerrors"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
)

// client returns BuildKit's own.
func (f *fixture) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(t.Context(), "tcp://server", client.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		here, there := net.Pipe()
		go f.Serve(context.Background(), there)
		return here, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// oneFile is the definition of a filesystem with a file /file.
func oneFile(t *testing.T, content []byte) *llb.Definition {
	t.Helper()
	def, err := llb.Scratch().File(llb.Mkfile("/file", 0o644, content)).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return def
}

// taken is a file of the client.
type taken struct{ bytes.Buffer }

func (*taken) Close() error { return nil }

// TestExporterEpoch: an exporter says itself which is the latest time, without a frontend.
func TestExporterEpoch(t *testing.T) {
	c, def, epoch := newFixture(t).client(t), oneFile(t, []byte("x")), time.Unix(1_000_000_000, 0).UTC()
	for _, kind := range []string{"oci", "docker", "tar", "local"} {
		t.Run(kind, func(t *testing.T) {
			var file taken
			e := client.ExportEntry{Type: kind, Attrs: map[string]string{"source-date-epoch": "1000000000"}}
			if kind == "local" {
				e.OutputDir = t.TempDir()
			} else {
				e.Output = func(map[string]string) (io.WriteCloser, error) { return &file, nil }
			}
			if _, err := c.Solve(t.Context(), def, client.SolveOpt{Exports: []client.ExportEntry{e}}, nil); err != nil {
				t.Fatal(err)
			}
			if kind == "local" {
				fi, err := os.Stat(filepath.Join(e.OutputDir, "file"))
				if err != nil || !fi.ModTime().Equal(epoch) {
					t.Errorf("the file is of %v, %v", fi.ModTime(), err)
				}
				return
			}
			if got := created(t, &file); !got.Equal(epoch) {
				t.Errorf("it is of %v", got)
			}
		})
	}
}

// created returns the time of the image in an archive, or of the file in a tar of files.
func created(t *testing.T, r io.Reader) time.Time {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "file" {
			return h.ModTime
		}
		if !strings.HasPrefix(h.Name, "blobs/") || h.Typeflag != tar.TypeReg {
			continue
		}
		var config ocispec.Image
		if json.NewDecoder(tr).Decode(&config) == nil && config.Created != nil {
			return *config.Created
		}
	}
}

// TestDeclined: a client need not take the archive of an image; BuildKit says then that all went well.
func TestDeclined(t *testing.T) {
	random := make([]byte, 5<<20) // more than is on its way at once
	rand.NewChaCha8([32]byte{1}).Read(random)
	for name, content := range map[string][]byte{"small": []byte("x"), "large": random} {
		t.Run(name, func(t *testing.T) {
			def := oneFile(t, content)
			f := newFixture(t)
			c := f.client(t)
			for _, kind := range []string{"oci", "docker", "tar"} {
				e := client.ExportEntry{Type: kind, Output: func(map[string]string) (io.WriteCloser, error) { return nil, nil }}
				_, err := c.Solve(t.Context(), def, client.SolveOpt{Exports: []client.ExportEntry{e}}, nil)
				if kind == "tar" && (err == nil || grpcerrors.Code(err) != codes.AlreadyExists) || kind != "tar" && err != nil {
					t.Errorf("%s: %v", kind, err)
				}
				e.Output = func(map[string]string) (io.WriteCloser, error) { return nil, errors.New("no room") }
				if _, err := c.Solve(t.Context(), def, client.SolveOpt{Exports: []client.ExportEntry{e}}, nil); err == nil {
					t.Errorf("%s: it went well, although the client could not take it", kind)
				}
			}
		})
	}
}
