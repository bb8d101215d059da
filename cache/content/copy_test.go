package content

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// strict is a Pusher that takes a manifest only after all it refers to, as registries do.
type strict struct {
	mu     sync.Mutex
	src    *memory
	pushed []digest.Digest
	active int
	most   int
	fail   digest.Digest
}

var errPush = errors.New("push failed")

func (s *strict) has(d digest.Digest) bool {
	for _, p := range s.pushed {
		if p == d {
			return true
		}
	}
	return false
}

func (s *strict) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has(d.Digest), nil
}

func (s *strict) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	s.mu.Lock()
	s.active++
	s.most = max(s.most, s.active)
	s.mu.Unlock()
	data, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	if err != nil {
		return err
	}
	if d.Digest == s.fail {
		return errPush
	}
	if digest.FromBytes(data) != d.Digest {
		return errdefs.ErrDataLoss
	}
	if doc, err := parse("", data); err == nil {
		for _, c := range doc.children() {
			if !s.has(c.Digest) && !IsForeign(c.MediaType) {
				return errors.New("manifest before its children")
			}
		}
	}
	if s.has(d.Digest) {
		return errors.New("pushed twice")
	}
	s.pushed = append(s.pushed, d.Digest)
	return nil
}

// locked makes a memory safe for several goroutines.
type locked struct {
	mu sync.Mutex
	*memory
}

func (l *locked) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.memory.Fetch(ctx, d)
}

func TestCopy(t *testing.T) {
	m := newMemory()
	shared := m.image("linux/amd64", "shared")
	root := m.index(shared, m.image("linux/arm64", "other"), m.index(shared, m.image("linux/s390x", "third")), m.image("linux/riscv64", "shared"))
	dst := &strict{src: m}
	var mu sync.Mutex
	events := map[EventKind]int{}
	o := CopyOptions{Concurrency: 3, Progress: func(e Event) { mu.Lock(); events[e.Kind]++; mu.Unlock() }}
	if err := Copy(t.Context(), dst, &locked{memory: m}, root, o); err != nil {
		t.Fatal(err)
	}
	if len(dst.pushed) != len(m.blobs) || dst.pushed[len(dst.pushed)-1] != root.Digest {
		t.Errorf("%d of %d blobs were pushed, the last is %s, want the root", len(dst.pushed), len(m.blobs), dst.pushed[len(dst.pushed)-1])
	}
	if dst.most > 3 {
		t.Errorf("%d at once, want at most 3", dst.most)
	}
	if events[EventDone] != len(m.blobs) {
		t.Errorf("events %v, want %d done", events, len(m.blobs))
	}
	clear(m.fetched)
	if err := Copy(t.Context(), dst, &locked{memory: m}, root, CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	for d := range m.fetched {
		if _, err := References(m.blobs[d]); err != nil {
			t.Errorf("%s was fetched although it was there", m.blobs[d])
		}
	}
}

func TestCopyPlatforms(t *testing.T) {
	m := newMemory()
	amd, arm := m.image("linux/amd64", "amd"), m.image("linux/arm64/v8", "arm")
	statement := m.image("unknown/unknown", "about amd")
	statement.Annotations = map[string]string{annotationReferenceType: "attestation-manifest", annotationReferenceDigest: string(amd.Digest)}
	other := m.image("unknown/unknown", "about arm")
	other.Annotations = map[string]string{annotationReferenceType: "attestation-manifest", annotationReferenceDigest: string(arm.Digest)}
	root := m.index(amd, arm, statement, other)
	dst := open(t)
	err := Copy(t.Context(), dst, &locked{memory: m}, root, CopyOptions{Platforms: []ocispec.Platform{parsePlatform("linux/amd64")}})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		d    ocispec.Descriptor
		want bool
	}{"root": {root, true}, "amd64": {amd, true}, "its statement": {statement, true}, "arm64": {arm, false}, "its statement too": {other, false}} {
		if got, err := dst.Exists(t.Context(), test.d); got != test.want || err != nil {
			t.Errorf("%s: %v, %v, want %v", name, got, err, test.want)
		}
	}
}

func TestCopyCompletesAManifestWithoutItsLayers(t *testing.T) {
	m := newMemory()
	root := m.image("linux/amd64", "layer")
	dst := open(t)
	push(t, dst, root.MediaType, m.blobs[root.Digest])
	if err := Copy(t.Context(), dst, &locked{memory: m}, root, CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(t.Context(), dst, root, parsePlatform("linux/amd64")); err != nil {
		t.Error(err)
	}
}

func TestCopyForeignLayers(t *testing.T) {
	m := newMemory()
	foreign := m.put(MediaTypeDockerForeignGzip, "windows")
	root := m.putJSON(MediaTypeDockerManifest, ocispec.Manifest{
		MediaType: MediaTypeDockerManifest, Config: m.put(MediaTypeDockerConfig, "{}"), Layers: []ocispec.Descriptor{foreign},
	})
	for _, want := range []bool{false, true} {
		dst := &strict{src: m}
		if err := Copy(t.Context(), dst, &locked{memory: m}, root, CopyOptions{Foreign: want}); err != nil {
			t.Fatal(err)
		}
		if dst.has(foreign.Digest) != want {
			t.Errorf("Foreign %v: the layer was pushed: %v", want, !want)
		}
	}
}

func TestCopyFailures(t *testing.T) {
	m := newMemory()
	img := m.image("linux/amd64", "layer")
	root := m.index(img)
	dst := &strict{src: m, fail: digest.FromString("layer")}
	if err := Copy(t.Context(), dst, &locked{memory: m}, root, CopyOptions{}); !errors.Is(err, errPush) {
		t.Errorf("failing push: got %v", err)
	}
	if dst.has(img.Digest) || dst.has(root.Digest) {
		t.Error("a manifest was pushed without its layer")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errPush)
	if err := Copy(ctx, &strict{src: m}, &locked{memory: m}, root, CopyOptions{}); !errors.Is(err, errPush) {
		t.Errorf("cancelled: got %v, want the cause", err)
	}
	delete(m.blobs, digest.FromString("layer"))
	if err := Copy(t.Context(), &strict{src: m}, &locked{memory: m}, root, CopyOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("missing layer: got %v, want not found", err)
	}
	for range 10 {
		root = m.index(root)
	}
	if err := Copy(t.Context(), &strict{src: m}, &locked{memory: m}, root, CopyOptions{}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("deep indexes: got %v, want resource exhausted", err)
	}
	if err := Copy(t.Context(), &strict{src: m}, &locked{memory: m}, m.put(mediaTypeDockerSchema1, "{}"), CopyOptions{}); !errdefs.IsNotImplemented(err) {
		t.Errorf("schema 1: got %v, want not implemented", err)
	}
}

// A patient gives out two layers of an image only when the copy of it is given up, and says then that it was, the
// second later than the first. Nobody else gets anything before.
type patient struct {
	Fetcher
	first         ocispec.Descriptor // the image
	shared, other digest.Digest
	begun         chan struct{}
}

func (p patient) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	switch {
	case d.Digest == p.first.Digest || IsIndex(d.MediaType):
	case d.Digest == p.shared:
		close(p.begun)
		<-ctx.Done()
		return nil, ctx.Err()
	case d.Digest == p.other:
		<-ctx.Done()
		time.Sleep(10 * time.Millisecond)
		return nil, ctx.Err()
	default:
		<-p.begun
	}
	return p.Fetcher.Fetch(ctx, d)
}

// What two images share is given up with one of them; what is told is why that one failed.
func TestCopyTellsWhatFailed(t *testing.T) {
	m := newMemory()
	layer := func(s string) ocispec.Descriptor { return m.put(ocispec.MediaTypeImageLayer, s) }
	manifest := func(layers ...ocispec.Descriptor) ocispec.Descriptor {
		return m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, Config: m.put(ocispec.MediaTypeImageConfig, "{}"), Layers: layers,
		})
	}
	shared, other, missing := layer("shared"), layer("other"), layer("missing")
	first := manifest(shared, other, missing)
	root := m.index(first, manifest(shared))
	delete(m.blobs, missing.Digest)
	src := patient{&locked{memory: m}, first, shared.Digest, other.Digest, make(chan struct{})}
	if err := Copy(t.Context(), &strict{src: m}, src, root, CopyOptions{Concurrency: 10}); !errdefs.IsNotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestDecompress(t *testing.T) {
	plain := []byte(strings.Repeat("0123456789", 50_000))
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(plain[:1000])
	w.Close()
	w.Reset(&gz) // a second member, as pigz -i and estargz make
	w.Write(plain[1000:])
	w.Close()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zs := enc.EncodeAll(plain, nil)
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'x', 'y', 'z'}, zs...)
	for name, data := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zs, "zstd skippable": skippable, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			r, err := Decompress(t.Context(), bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			cut, err := Decompress(t.Context(), bytes.NewReader(data[:len(data)-10]))
			if err != nil {
				t.Fatal(err)
			}
			defer cut.Close()
			if _, err := io.ReadAll(cut); !strings.HasPrefix(name, "plain") && !errdefs.IsDataLoss(err) {
				t.Errorf("cut: got %v, want data loss", err)
			}
			broken, err := Decompress(t.Context(), io.MultiReader(bytes.NewReader(data[:20]), failing{}))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(broken); !errors.Is(err, errPush) || errdefs.IsDataLoss(err) {
				t.Errorf("source fails: got %v, want its own error", err)
			}
			if err := broken.Close(); err != nil {
				t.Errorf("Close says once more what Read said: %v", err)
			}
		})
	}
	for _, short := range []string{"", "x", "\x1f", "\x1f\x8b"} {
		r, err := Decompress(t.Context(), strings.NewReader(short))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != short {
			t.Errorf("%q: got %q, %v", short, got, err)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errPush }

func FuzzDecompress(f *testing.F) {
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58})
	f.Add([]byte("plain"))
	// What `printf hello | xz --check=crc32` makes.
	f.Add([]byte("\xfd7zXZ\x00\x00\x01i\"\xde6\x02\x00!\x01\x16\x00\x00\x00t/\xe5\xa3\x01\x00\x04hello\x00\x00\x00\x00\x86\xa6\x106" +
		"\x00\x01\x19\x05\xbc\xe8\xec\xcb\x90B\x99\r\x01\x00\x00\x00\x00\x01YZ"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decompress(t.Context(), bytes.NewReader(data))
		if err != nil {
			if !errdefs.IsDataLoss(err) && !errdefs.IsOutOfRange(err) {
				t.Fatalf("error without a class: %v", err)
			}
			return
		}
		defer r.Close()
		if _, err := io.Copy(io.Discard, io.LimitReader(r, 64<<20)); err != nil && !errdefs.IsDataLoss(err) && !errdefs.IsOutOfRange(err) {
			t.Fatalf("error without a class: %v", err)
		}
	})
}
