package content

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "content"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// push stores data and returns its descriptor.
func push(t *testing.T, dst Pusher, mediaType string, data []byte) ocispec.Descriptor {
	t.Helper()
	d := describe(mediaType, data)
	if err := dst.Push(t.Context(), d, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return d
}

// ingests lists what is half written.
func ingests(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, "ingest"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPushFetch(t *testing.T) {
	data := make([]byte, 300<<10)
	rand.Read(data)
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		t.Run(string(algorithm), func(t *testing.T) {
			s := open(t)
			d := ocispec.Descriptor{Digest: algorithm.FromBytes(data), Size: int64(len(data))}
			if ok, err := s.Exists(t.Context(), d); ok || err != nil {
				t.Fatalf("Exists before Push: %v, %v", ok, err)
			}
			if err := s.Push(t.Context(), d, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			if ok, err := s.Exists(t.Context(), d); !ok || err != nil {
				t.Fatalf("Exists after Push: %v, %v", ok, err)
			}
			got, err := ReadAll(t.Context(), s, d)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("Fetch gave %d bytes, %v", len(got), err)
			}
			if left := ingests(t, s); len(left) > 0 {
				t.Errorf("left in ingest: %v", left)
			}
			if err := s.Delete(t.Context(), d.Digest); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Fetch(t.Context(), d); !errdefs.IsNotFound(err) {
				t.Errorf("Fetch after Delete: got %v, want not found", err)
			}
		})
	}
}

func TestPushRefusesWrongBytes(t *testing.T) {
	data := []byte("the right bytes")
	good := describe("", data)
	for name, test := range map[string]struct {
		d    ocispec.Descriptor
		data []byte
	}{
		"other bytes":    {good, []byte("the wrong bytes")},
		"too short":      {good, data[:5]},
		"too long":       {good, append(data, '!')},
		"negative size":  {ocispec.Descriptor{Digest: good.Digest, Size: -1}, data},
		"size too small": {ocispec.Descriptor{Digest: good.Digest, Size: 3}, data},
		"path as digest": {ocispec.Descriptor{Digest: "sha256:../../../etc/passwd", Size: good.Size}, data},
		"no digest":      {ocispec.Descriptor{Size: good.Size}, data},
		"md5":            {ocispec.Descriptor{Digest: "md5:d41d8cd98f00b204e9800998ecf8427e", Size: good.Size}, data},
		"sha384":         {ocispec.Descriptor{Digest: digest.SHA384.FromBytes(data), Size: good.Size}, data},
		"capital hex":    {ocispec.Descriptor{Digest: digest.Digest("sha256:" + strings.ToUpper(good.Digest.Encoded())), Size: good.Size}, data},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			if err := s.Push(t.Context(), test.d, bytes.NewReader(test.data)); err == nil {
				t.Fatal("Push took it")
			}
			err := s.Walk(t.Context(), func(i Info) error { return fmt.Errorf("visible: %s", i.Digest) })
			if err != nil {
				t.Error(err)
			}
			if left := ingests(t, s); len(left) > 0 {
				t.Errorf("left in ingest: %v", left)
			}
		})
	}
}

func TestFetchNeverEndsWellOnDamage(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"bit flipped": func(p string) error { return os.WriteFile(p, []byte("0123456799"), 0o644) },
		"cut":         func(p string) error { return os.Truncate(p, 4) },
		"grown":       func(p string) error { return os.WriteFile(p, []byte("01234567890"), 0o644) },
		"emptied":     func(p string) error { return os.Truncate(p, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			d := push(t, s, "", []byte("0123456789"))
			if err := damage(s.Path(d.Digest)); err != nil {
				t.Fatal(err)
			}
			r, err := s.Fetch(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := io.ReadAll(r); !errdefs.IsDataLoss(err) {
				t.Errorf("got %v, want data loss", err)
			}
			if _, err := r.Read(make([]byte, 10)); !errdefs.IsDataLoss(err) {
				t.Errorf("reading on: got %v, want data loss", err)
			}
		})
	}
}

func TestPushReplacesATruncatedBlob(t *testing.T) {
	s := open(t)
	d := push(t, s, "", []byte("0123456789"))
	if err := os.Truncate(s.Path(d.Digest), 3); err != nil {
		t.Fatal(err)
	}
	push(t, s, "", []byte("0123456789"))
	if _, err := ReadAll(t.Context(), s, d); err != nil {
		t.Error(err)
	}
}

func TestWriter(t *testing.T) {
	s := open(t)
	w, err := s.Writer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "hello ")
	io.WriteString(w, "world")
	got, err := w.Commit(t.Context(), "text/plain")
	if err != nil {
		t.Fatal(err)
	}
	if want := describe("text/plain", []byte("hello world")); got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := w.Close(); err != nil {
		t.Errorf("Close after Commit: %v", err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("Write after Commit worked")
	}
	if _, err := ReadAll(t.Context(), s, got); err != nil {
		t.Error(err)
	}
}

func TestAbandonedWriterLeavesNothing(t *testing.T) {
	s := open(t)
	w, err := s.Writer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "hello")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if left := ingests(t, s); len(left) > 0 {
		t.Errorf("left in ingest: %v", left)
	}
	if _, err := w.Commit(t.Context(), ""); err == nil {
		t.Error("Commit after Close worked")
	}
}

func TestTouch(t *testing.T) {
	s := open(t)
	d := push(t, s, "", []byte("x"))
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.Path(d.Digest), old, old); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Touch(d.Digest); !ok || err != nil {
		t.Fatalf("Touch: %v, %v", ok, err)
	}
	info, err := s.Stat(t.Context(), d.Digest)
	if err != nil || time.Since(info.ModTime) > time.Minute {
		t.Errorf("after Touch: %v, %v", info.ModTime, err)
	}
	if ok, err := s.Touch(digest.FromString("absent")); ok || err != nil {
		t.Errorf("Touch of an absent blob: %v, %v", ok, err)
	}
}

func TestOpenLeavesAnotherToolsLayoutAlone(t *testing.T) {
	dir := t.TempDir()
	index := filepath.Join(dir, "index.json")
	if err := os.WriteFile(index, []byte(`{"mine":true}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(index); string(got) != `{"mine":true}` {
		t.Errorf("index.json became %s", got)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "oci-layout")); strings.TrimSpace(string(got)) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout is %s", got)
	}
}

// A child process of the tests below. It stores blobs until it is killed; each is 1 MiB of one byte.
func TestMain(m *testing.M) {
	dir := os.Getenv("TEU_TEST_CONTENT_WRITER")
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Open(dir)
	if err != nil {
		panic(err)
	}
	for i := 0; ; i++ {
		data := bytes.Repeat([]byte{byte(i)}, 1<<20)
		d := describe("", data)
		if err := s.Push(context.Background(), d, slowReader{bytes.NewReader(data)}); err != nil {
			panic(err)
		}
		fmt.Println(d.Digest)
		if err := s.Delete(context.Background(), d.Digest); err != nil && !errdefs.IsNotFound(err) {
			panic(err)
		}
	}
}

// slowReader gives a kill the time to come in the middle.
type slowReader struct{ r io.Reader }

func (s slowReader) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), 4<<10)]) }

func TestKilledWriterLeavesNothingVisible(t *testing.T) {
	dir := t.TempDir()
	for turn := range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TEU_TEST_CONTENT_WRITER="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// At least one blob, then somewhere in one of the next.
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(turn) * 300 * time.Microsecond)
		if err := errors.Join(cmd.Process.Kill()); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()

		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Walk(t.Context(), func(i Info) error {
			_, err := ReadAll(t.Context(), s, ocispec.Descriptor{Digest: i.Digest, Size: i.Size})
			return err
		})
		if err != nil {
			t.Fatalf("turn %d: %v", turn, err)
		}
		// The next writer cleans up; its own file is spared by the one after.
		w, err := s.Writer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := ingests(t, s); len(left) != 1 {
			t.Errorf("turn %d: in ingest are %v, want the living writer's alone", turn, left)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}
