package buildkit

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
)

// client returns BuildKit's own.
func (f *fixture) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(t.Context(), "tcp://server", client.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		here, there := net.Pipe()
		f.served.Go(func() { f.Serve(context.Background(), there) })
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

// TestExportDifference: a whiteout with nothing below it is no file.
func TestExportDifference(t *testing.T) {
	c := newFixture(t).client(t)
	base := llb.Scratch().File(llb.Mkdir("/d", 0o755).Mkfile("/d/old", 0o644, nil))
	def, err := llb.Diff(base, base.File(llb.Rm("/d/old").Mkfile("/d/new", 0o644, nil))).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := c.Solve(t.Context(), def, client.SolveOpt{Exports: []client.ExportEntry{{Type: "local", OutputDir: dir}}}, nil); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(filepath.Join(dir, "d"))
	if err != nil || len(names) != 1 || names[0].Name() != "new" {
		t.Errorf("got %v, %v", names, err)
	}
}

// TestResponse: a client is told what its frontend said, and the name that the last output gave. Without a frontend that
// has read it the build argument SOURCE_DATE_EPOCH counts all the same.
func TestResponse(t *testing.T) {
	c, def := newFixture(t).client(t), oneFile(t, []byte("x"))
	var file taken
	exports := []client.ExportEntry{
		{Type: "image", Attrs: map[string]string{"name": "first:1"}},
		{Type: "image", Attrs: map[string]string{"name": "last:1"}},
		{Type: "tar", Output: func(map[string]string) (io.WriteCloser, error) { return &file, nil }},
	}
	res, err := c.Build(t.Context(), client.SolveOpt{Exports: exports, FrontendAttrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "1000000000"}}, "", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		r, err := g.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB()})
		if err == nil {
			r.AddMeta("frontend.said", []byte("yes"))
			r.AddMeta("other", []byte("no"))
		}
		return r, err
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if m := res.ExporterResponse; m["frontend.said"] != "yes" || m["other"] != "" || m["image.name"] != "last:1" {
		t.Errorf("the response: %v", m)
	}
	if got := created(t, &file); !got.Equal(time.Unix(1_000_000_000, 0)) {
		t.Errorf("the file is of %v", got)
	}
}

// TestErrorPlaces: an error has all places of its operation that the definition tells, and their language.
func TestErrorPlaces(t *testing.T) {
	c := newFixture(t).client(t)
	a, b := llb.NewSourceMap(nil, "a", "mine", []byte("text a")), llb.NewSourceMap(nil, "b", "", []byte("text b"))
	at := func(m *llb.SourceMap, line int32) llb.ConstraintsOpt {
		return m.Location([]*pb.Range{{Start: &pb.Position{Line: line}}})
	}
	def, err := llb.Scratch().File(llb.Rm("/missing"), at(a, 7), at(b, 8), at(a, 9)).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Solve(t.Context(), def, client.SolveOpt{}, nil)
	var got []string
	for _, s := range bkerrdefs.Sources(err) {
		got = append(got, fmt.Sprint(s.Info.Filename, s.Ranges[0].Start.Line, s.Info.Language))
	}
	if want := []string{"a9mine", "b8Dockerfile", "a7mine"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestPing: who names no build is told so at once.
func TestPing(t *testing.T) {
	_, err := gwpb.NewLLBBridgeClient(newFixture(t).connect(t)).Ping(t.Context(), &gwpb.PingRequest{})
	if grpcerrors.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

// TestCacheIgnoreError: a cache that cannot be written is no failure if the client says so. gRPC takes no such name.
func TestCacheIgnoreError(t *testing.T) {
	c, def := newFixture(t).client(t), oneFile(t, []byte("x"))
	for _, ignore := range []string{"true", "false"} {
		e := client.CacheOptionsEntry{Type: "local", Attrs: map[string]string{"dest": filepath.Join(t.TempDir(), "\u00e9"), "ignore-error": ignore}}
		_, err := c.Solve(t.Context(), def, client.SolveOpt{CacheExports: []client.CacheOptionsEntry{e}}, nil)
		if (err == nil) != (ignore == "true") {
			t.Errorf("ignore-error=%s: %v", ignore, err)
		}
	}
}

// TestLocalCaches: a build may be kept in several directories of the client, and one that is read and written keeps what
// it has.
func TestLocalCaches(t *testing.T) {
	def := oneFile(t, []byte("x"))
	one, two := t.TempDir(), t.TempDir()
	entry := func(kind, dir string, more ...string) client.CacheOptionsEntry {
		e := client.CacheOptionsEntry{Type: "local", Attrs: map[string]string{kind: dir}}
		for i := 0; i < len(more); i += 2 {
			e.Attrs[more[i]] = more[i+1]
		}
		return e
	}
	build := func(from, to []client.CacheOptionsEntry) (cached bool, err error) {
		t.Helper()
		statuses, read := make(chan *client.SolveStatus), make(chan struct{})
		go func() {
			defer close(read)
			for s := range statuses {
				for _, v := range s.Vertexes {
					cached = cached || v.Cached && strings.HasPrefix(v.Name, "mkfile")
				}
			}
		}()
		_, err = newFixture(t).client(t).Solve(t.Context(), def, client.SolveOpt{CacheImports: from, CacheExports: to}, statuses)
		<-read
		return cached, err
	}
	if cached, err := build(nil, []client.CacheOptionsEntry{entry("dest", one), entry("dest", two, "tag", "other")}); err != nil || cached {
		t.Fatalf("cached %v, %v", cached, err)
	}
	for range 2 { // what is read there is written there
		if cached, err := build([]client.CacheOptionsEntry{entry("src", one)}, []client.CacheOptionsEntry{entry("dest", one)}); err != nil || !cached {
			t.Fatalf("the first directory: cached %v, %v", cached, err)
		}
	}
	if cached, err := build([]client.CacheOptionsEntry{entry("src", two, "tag", "other")}, nil); err != nil || !cached {
		t.Fatalf("the second directory: cached %v, %v", cached, err)
	}
	_, err := build(nil, []client.CacheOptionsEntry{entry("dest", one), entry("dest", two, "mode", "min")})
	if err == nil || !strings.Contains(err.Error(), "the same attributes") {
		t.Errorf("caches that differ: %v", err)
	}
}

// TestExporterConfig: an output may say the image's config, where there is no frontend to do it.
func TestExporterConfig(t *testing.T) {
	f := newFixture(t)
	config := `{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":["/x"]},"rootfs":{"type":"layers","diff_ids":[]}}`
	e := client.ExportEntry{Type: "image", Attrs: map[string]string{"name": "configured:1", "containerimage.config": config}}
	res, err := f.client(t).Solve(t.Context(), oneFile(t, []byte("x")), client.SolveOpt{Exports: []client.ExportEntry{e}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.store.Content.Path(digest.Digest(res.ExporterResponse["containerimage.config.digest"])))
	if err != nil {
		t.Fatal(err)
	}
	var got ocispec.Image
	if err := json.Unmarshal(data, &got); err != nil || !slices.Equal(got.Config.Cmd, []string{"/x"}) || len(got.RootFS.DiffIDs) != 1 {
		t.Errorf("the config: %s, %v", data, err)
	}
}
