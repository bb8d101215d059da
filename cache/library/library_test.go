package library

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/dockerfile"
	"github.com/teu-dev/teu/registry"
	server "github.com/teu-dev/teu/server/registry"
	"github.com/teu-dev/teu/test/privilege"
)

// open returns an empty library. Unpacking layers sets owners, so it needs root.
func open(t *testing.T) *Library {
	t.Helper()
	privilege.NeedRoot(t)
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	s, err := cache.Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &Library{Store: s, Registry: registry.New(registry.Options{}), Change: dockerfile.Change}
}

// serve runs a registry and returns its host:port.
func serve(t *testing.T) string {
	t.Helper()
	r, err := server.New(server.Options{Root: t.TempDir(), Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// put stores an image of one file per layer without unpacking it.
func put(t testing.TB, l *Library, p ocispec.Platform, created time.Time, files ...string) ocispec.Descriptor {
	t.Helper()
	img := ocispec.Image{Platform: p, Created: &created, RootFS: ocispec.RootFS{Type: "layers"}}
	img.Config.Labels = map[string]string{"files": strings.Join(files, "+")}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, f := range files {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: f, Size: int64(len(f)), Mode: 0o644}), write(w, f), w.Close()); err != nil {
			t.Fatal(err)
		}
		d := blob(t, l, ocispec.MediaTypeImageLayer, b.Bytes())
		m.Layers = append(m.Layers, d)
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, d.Digest)
		img.History = append(img.History, ocispec.History{Created: &created, CreatedBy: "COPY " + f + " /"},
			ocispec.History{Created: &created, CreatedBy: "ENV F=" + f, EmptyLayer: true})
	}
	m.Config = blob(t, l, ocispec.MediaTypeImageConfig, marshal(t, img))
	d := blob(t, l, m.MediaType, marshal(t, m))
	d.Platform = &p
	return d
}

func write(w *tar.Writer, s string) error { _, err := w.Write([]byte(s)); return err }

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func blob(t testing.TB, l *Library, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := l.Store.Content.Push(context.Background(), d, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return d
}

func index(t *testing.T, l *Library, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return blob(t, l, ocispec.MediaTypeImageIndex, marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	}))
}

func name(t testing.TB, l *Library, target ocispec.Descriptor, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := l.Store.Images.Put(t.Context(), image.Image{Name: n, Target: target}); err != nil {
			t.Fatal(err)
		}
	}
}

func idOf(t *testing.T, l *Library, ref string) digest.Digest {
	t.Helper()
	_, img, err := listing.Find(t.Context(), l.Store, ref)
	if err != nil {
		t.Fatal(err)
	}
	return img.Manifest.Config.Digest
}

func tagged(t *testing.T, s string) reference.NamedTagged {
	t.Helper()
	ref, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref.(reference.NamedTagged)
}

// tags returns the names All gives, dangling images as their files.
func tags(t *testing.T, l *Library, filters ...string) []string {
	t.Helper()
	all, err := l.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := listing.ParseFilters(filters)
	if err != nil {
		t.Fatal(err)
	}
	if all, err = l.Select(t.Context(), all, f); err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, img := range all {
		for _, tag := range img.Tags {
			out = append(out, listing.Familiar(tag))
		}
		if img.Dangling() {
			out = append(out, "<none> "+img.Labels["files"])
		}
	}
	return out
}

var (
	day   = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	other = ocispec.Platform{OS: "linux", Architecture: "mips64le"}
)

func TestListAndFilter(t *testing.T) {
	l := open(t)
	a := put(t, l, content.Host(), day, "a")
	b := put(t, l, content.Host(), day.Add(time.Hour), "a", "b")
	c := put(t, l, content.Host(), day.Add(2*time.Hour), "c")
	name(t, l, a, "docker.io/library/old:1", "registry.example:5000/team/old:1")
	name(t, l, index(t, l, b), "docker.io/library/new:latest")
	name(t, l, c, "")
	for _, tt := range []struct {
		filters []string
		want    []string
	}{
		{nil, []string{"<none> c", "new:latest", "old:1", "registry.example:5000/team/old:1"}},
		{[]string{"dangling=true"}, []string{"<none> c"}},
		{[]string{"dangling=false"}, []string{"new:latest", "old:1", "registry.example:5000/team/old:1"}},
		{[]string{"reference=old"}, []string{"old:1"}},
		{[]string{"reference=*/team/*"}, []string{"registry.example:5000/team/old:1"}},
		{[]string{"reference=new", "reference=old:1"}, []string{"new:latest", "old:1"}},
		{[]string{"reference=docker.io/library/new"}, []string{"new:latest"}},
		{[]string{"before=new"}, []string{"old:1", "registry.example:5000/team/old:1"}},
		{[]string{"since=old:1"}, []string{"<none> c", "new:latest"}},
		{[]string{"label=files=a"}, []string{"old:1", "registry.example:5000/team/old:1"}},
		{[]string{"label!=files=a"}, []string{"<none> c", "new:latest"}},
		{[]string{"until=2026-03-01T00:30:00Z"}, []string{"old:1", "registry.example:5000/team/old:1"}},
	} {
		if diff := cmp.Diff(tt.want, tags(t, l, tt.filters...)); diff != "" {
			t.Errorf("%v: %s", tt.filters, diff)
		}
	}
	if _, err := listing.ParseFilters([]string{"colour=red"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown filter: %v", err)
	}
}

func TestInspectAndHistory(t *testing.T) {
	l := open(t)
	target := put(t, l, content.Host(), day, "a", "b")
	name(t, l, target, "docker.io/library/x:1", "docker.io/library/x:2")
	d, err := l.Inspect(t.Context(), "x:1", InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x:1", "x:2"}, d.RepoTags); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"x@" + target.Digest.String()}, d.RepoDigests); diff != "" {
		t.Error(diff)
	}
	if d.Architecture != content.Host().Architecture || len(d.RootFS.Layers) != 2 || d.Created != "2026-03-01T00:00:00Z" {
		t.Errorf("%+v", d)
	}
	for _, ref := range []string{d.ID, strings.TrimPrefix(d.ID, "sha256:")[:12], "x@" + target.Digest.String()} {
		if got, err := l.Inspect(t.Context(), ref, InspectOptions{}); err != nil || got.ID != d.ID {
			t.Errorf("%s: %v", ref, err)
		}
	}
	steps, err := l.History(t.Context(), "x:2", InspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var by []string
	for _, s := range steps {
		by = append(by, s.ID[:7]+" "+s.CreatedBy)
	}
	if diff := cmp.Diff([]string{"sha256: ENV F=b", "<missin COPY b /", "<missin ENV F=a", "<missin COPY a /"}, by); diff != "" {
		t.Error(diff)
	}
	if steps[0].Size != 0 || steps[1].Size == 0 {
		t.Errorf("sizes %d, %d", steps[0].Size, steps[1].Size)
	}
	if _, err := l.Inspect(t.Context(), "nosuch", InspectOptions{}); err == nil || err.Error() != "No such image: nosuch:latest" {
		t.Errorf("got %v", err)
	}
}

func TestRemove(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	target := put(t, l, content.Host(), day, "a")
	name(t, l, target, "docker.io/library/x:1", "registry.example/x:2")
	id := idOf(t, l, "x:1")
	var users []Container
	l.Containers = func(context.Context) ([]Container, error) { return slices.Clone(users), nil }
	remove := func(ref string, force bool, want []Removal, text string) {
		t.Helper()
		got, err := l.Remove(ctx, ref, RemoveOptions{Force: force})
		if text != "" {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("rmi %s: got %v, want %q", ref, err, text)
			}
			return
		}
		if err != nil {
			t.Errorf("rmi %s: %v", ref, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("rmi %s: %s", ref, diff)
		}
	}
	remove("nosuch", false, nil, "No such image: nosuch:latest")
	remove(listing.ShortID(id), false, nil, "image is referenced in multiple repositories")
	remove("x:1", false, []Removal{{Untagged: "x:1"}}, "")

	users = []Container{{ID: strings.Repeat("c", 64), Image: id}}
	remove("registry.example/x:2", false, nil, "container cccccccccccc is using its referenced image "+listing.ShortID(id))
	remove(listing.ShortID(id), false, nil, "(must be forced) - image is being used by stopped container cccccccccccc")
	users[0].Running = true
	remove(listing.ShortID(id), true, nil, "(cannot be forced) - image is being used by running container cccccccccccc")
	remove("registry.example/x:2", true, []Removal{{Untagged: "registry.example/x:2"}}, "")
	if diff := cmp.Diff([]string{"<none> a"}, tags(t, l)); diff != "" {
		t.Errorf("an image in use has vanished: %s", diff)
	}

	users = nil
	name(t, l, target, "docker.io/library/x:3", "docker.io/library/x:4", "registry.example/x:2")
	remove("x@"+target.Digest.String(), false, []Removal{{Untagged: "x:3"}, {Untagged: "x:4"}}, "")
	remove("registry.example/x:2", false, []Removal{{Untagged: "registry.example/x:2"}, {Deleted: id.String()}}, "")
	if _, err := l.Store.Content.Stat(ctx, target.Digest); !errdefs.IsNotFound(err) {
		t.Errorf("its bytes are still there: %v", err)
	}
}

func TestPrune(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	name(t, l, put(t, l, content.Host(), day, "used"), "docker.io/library/used:1")
	name(t, l, put(t, l, content.Host(), day, "free"), "docker.io/library/free:1")
	dangling := put(t, l, content.Host(), day, "dangling")
	name(t, l, dangling, "")
	used := idOf(t, l, "used:1")
	l.Containers = func(context.Context) ([]Container, error) { return []Container{{ID: "c", Image: used}}, nil }
	removed, freed, err := l.Prune(ctx, PruneOptions{})
	if err != nil || len(removed) != 1 || freed == 0 {
		t.Errorf("%v, %d bytes, %v", removed, freed, err)
	}
	if diff := cmp.Diff([]string{"free:1", "used:1"}, tags(t, l)); diff != "" {
		t.Error(diff)
	}
	if _, _, err := l.Prune(ctx, PruneOptions{All: true}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"used:1"}, tags(t, l)); diff != "" {
		t.Error(diff)
	}
}

// Each request takes a round trip: a pull asks for what it needs once, and for nothing of what is here.
func TestPullRequests(t *testing.T) {
	ctx := t.Context()
	r, err := server.New(server.Options{Root: t.TempDir(), Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		asked = append(asked, q.Method+" "+strings.TrimPrefix(q.URL.Path, "/v2/x/"))
		mu.Unlock()
		r.ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	l := open(t)
	one := put(t, l, content.Host(), day, "a")
	m, err := content.Resolve(ctx, l.Store.Content, one, content.Host())
	if err != nil {
		t.Fatal(err)
	}
	ref := tagged(t, strings.TrimPrefix(s.URL, "http://")+"/x:1")
	name(t, l, one, ref.String())
	if _, err := l.Push(ctx, ref, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	l2 := open(t)
	for _, want := range [][]string{
		{"GET manifests/1", "GET blobs/" + m.Manifest.Config.Digest.String(), "GET blobs/" + m.Manifest.Layers[0].Digest.String()},
		{"HEAD manifests/1"},
	} {
		asked = nil
		if _, err := l2.Pull(ctx, ref, PullOptions{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, asked); diff != "" {
			t.Error(diff)
		}
	}
	if img, err := l2.Store.Images.Get(ref.String()); err != nil || img.Target.Data != nil {
		t.Errorf("%+v, %v", img, err)
	}
}

func TestPushPull(t *testing.T) {
	ctx := t.Context()
	host := serve(t)
	l := open(t)
	target := put(t, l, content.Host(), day, "a", "b")
	ref := tagged(t, host+"/team/x:1")
	if _, err := l.Push(ctx, ref, PushOptions{}); err == nil || !strings.Contains(err.Error(), "does not exist locally with the tag: "+host+"/team/x") {
		t.Errorf("push of nothing: %v", err)
	}
	name(t, l, target, ref.String())
	pushed, err := l.Push(ctx, ref, PushOptions{})
	if err != nil || pushed.Target.Digest != target.Digest {
		t.Fatalf("%+v, %v", pushed, err)
	}
	for i, want := range []bool{true, false} {
		l2 := open(t)
		if i == 1 {
			l2 = l
		}
		pulled, err := l2.Pull(ctx, ref, PullOptions{})
		if err != nil || pulled.New != want || pulled.Target.Digest != target.Digest {
			t.Errorf("%+v, %v", pulled, err)
		}
		if diff := cmp.Diff([]string{ref.String()}, tags(t, l2)); diff != "" {
			t.Error(diff)
		}
	}
	byDigest, err := reference.WithDigest(reference.TrimNamed(ref), target.Digest)
	if err != nil {
		t.Fatal(err)
	}
	l3 := open(t)
	if _, err := l3.Pull(ctx, byDigest, PullOptions{}); err != nil {
		t.Error(err)
	}
	all, err := l3.All(ctx)
	if err != nil || len(all) != 1 || len(all[0].Tags) != 0 || len(all[0].Digests) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := open(t).Pull(ctx, ref, PullOptions{Platform: &other}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "not for linux/mips64le") {
		t.Errorf("other platform: %v", err)
	}
	if _, err := l3.Pull(ctx, tagged(t, host+"/team/x:2"), PullOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("missing tag: %v", err)
	}
}

// A layer that is unpacked is not fetched as another blob, of an image that has it compressed in another way. That
// image can leave this machine all the same.
func TestOtherCompression(t *testing.T) {
	ctx := t.Context()
	host := serve(t)
	far := open(t)
	plain := put(t, far, content.Host(), day, "a", "b")
	img, err := content.Resolve(ctx, far.Store.Content, plain, content.Host())
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range img.Manifest.Layers {
		data, err := content.ReadAll(ctx, far.Store.Content, l)
		if err != nil {
			t.Fatal(err)
		}
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(data); errors.Join(err, w.Close()) != nil {
			t.Fatal(err)
		}
		img.Manifest.Layers[i] = blob(t, far, ocispec.MediaTypeImageLayerGzip, z.Bytes())
	}
	zipped := blob(t, far, ocispec.MediaTypeImageManifest, marshal(t, img.Manifest))
	for ref, target := range map[string]ocispec.Descriptor{host + "/one:1": plain, host + "/two:1": zipped} {
		name(t, far, target, ref)
		if _, err := far.Push(ctx, tagged(t, ref), PushOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	l := open(t)
	for _, ref := range []string{host + "/one:1", host + "/two:1"} {
		if _, err := l.Pull(ctx, tagged(t, ref), PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if ok, err := l.Store.Content.Exists(ctx, img.Manifest.Layers[0]); ok || err != nil {
		t.Fatalf("the layer was fetched twice: %v, %v", ok, err)
	}
	id := idOf(t, l, host+"/two:1")

	var saved bytes.Buffer
	if err := l.Save(ctx, &saved, []string{host + "/two:1"}, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := open(t).Load(ctx, &saved, LoadOptions{}); err != nil || len(got) != 1 || got[0].ID != id {
		t.Errorf("%+v, %v", got, err)
	}

	// The registry that has it has it as it was pulled; another gets what is here.
	if got, err := l.Push(ctx, tagged(t, host+"/two:1"), PushOptions{}); err != nil || got.Target.Digest != zipped.Digest {
		t.Errorf("%+v, %v", got, err)
	}
	other := serve(t) + "/two:1"
	if err := l.Tag(ctx, host+"/two:1", other); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Push(ctx, tagged(t, other), PushOptions{}); err != nil {
		t.Fatal(err)
	}
	l2 := open(t)
	if _, err := l2.Pull(ctx, tagged(t, other), PullOptions{}); err != nil || idOf(t, l2, other) != id {
		t.Errorf("pulled from the other registry: %v", err)
	}

	// What has been given the name while the layers were sent keeps it.
	again, built := serve(t)+"/two:1", put(t, l, content.Host(), day, "built")
	if err := l.Tag(ctx, host+"/two:1", again); err != nil {
		t.Fatal(err)
	}
	var build sync.Once
	meanwhile := func(content.Event) { build.Do(func() { name(t, l, built, again) }) }
	if _, err := l.Push(ctx, tagged(t, again), PushOptions{Progress: meanwhile}); err != nil {
		t.Fatal(err)
	}
	if now, err := l.Store.Images.Get(again); err != nil || now.Target.Digest != built.Digest {
		t.Errorf("the name stands for %s, want %s; %v", now.Target.Digest, built.Digest, err)
	}
}

// After a pull an index is here for one platform only.
func TestPushPartialIndex(t *testing.T) {
	ctx := t.Context()
	host := serve(t)
	l := open(t)
	mine, theirs := put(t, l, content.Host(), day, "a"), put(t, l, other, day, "b")
	both := index(t, l, mine, theirs)
	ref := tagged(t, host+"/x:1")
	name(t, l, both, ref.String())
	if got, err := l.Push(ctx, ref, PushOptions{}); err != nil || got.Target.Digest != both.Digest || got.Index != nil {
		t.Fatalf("%+v, %v", got, err)
	}
	l2 := open(t)
	if _, err := l2.Pull(ctx, ref, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := l2.Tag(ctx, ref.String(), host+"/x:2"); err != nil {
		t.Fatal(err)
	}
	// The repository has the rest: the whole index gets the new tag.
	if got, err := l2.Push(ctx, tagged(t, host+"/x:2"), PushOptions{}); err != nil || got.Target.Digest != both.Digest {
		t.Errorf("%+v, %v", got, err)
	}
	// Another has not: the image of this machine is pushed instead, and said.
	if err := l2.Tag(ctx, ref.String(), host+"/y:1"); err != nil {
		t.Fatal(err)
	}
	got, err := l2.Push(ctx, tagged(t, host+"/y:1"), PushOptions{})
	if err != nil || got.Target.Digest != mine.Digest || got.Index == nil || got.Index.Digest != both.Digest {
		t.Errorf("%+v, %v", got, err)
	}
	// So it is when asked for.
	if got, err := l.Push(ctx, ref, PushOptions{Platform: &other}); err != nil || got.Target.Digest != theirs.Digest {
		t.Errorf("%+v, %v", got, err)
	}
	// An image of one platform alone is none of another.
	alone := tagged(t, host+"/alone:1")
	name(t, l, mine, alone.String())
	if got, err := l.Push(ctx, alone, PushOptions{Platform: &other}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not provide the specified platform") {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSaveLoad(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	target := put(t, l, content.Host(), day, "a")
	name(t, l, target, "docker.io/library/x:1", "docker.io/library/x:2")
	id := idOf(t, l, "x:1")
	for _, tt := range []struct {
		ref  string
		want []string
	}{
		{"x:2", []string{"docker.io/library/x:2"}},
		{"x", []string{"docker.io/library/x:1", "docker.io/library/x:2"}},
		{id.String(), nil},
	} {
		var out bytes.Buffer
		if err := l.Save(ctx, &out, []string{tt.ref}, SaveOptions{}); err != nil {
			t.Fatalf("%s: %v", tt.ref, err)
		}
		l2 := open(t)
		got, err := l2.Load(ctx, &out, LoadOptions{})
		if err != nil {
			t.Fatalf("%s: %v", tt.ref, err)
		}
		if diff := cmp.Diff([]Loaded{{ID: id, Names: tt.want}}, got); diff != "" {
			t.Errorf("%s: %s", tt.ref, diff)
		}
		if _, err := l2.Inspect(ctx, id.String(), InspectOptions{}); err != nil {
			t.Errorf("%s: %v", tt.ref, err)
		}
	}
	if err := l.Save(ctx, &bytes.Buffer{}, []string{"nosuch"}, SaveOptions{}); err == nil || err.Error() != "No such image: nosuch:latest" {
		t.Errorf("got %v", err)
	}
}

func TestTag(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	first, second := put(t, l, content.Host(), day, "a"), put(t, l, content.Host(), day, "b")
	name(t, l, first, "docker.io/library/x:1")
	name(t, l, second, "docker.io/library/y:1")
	if err := l.Tag(ctx, "y:1", "x:1"); err != nil {
		t.Fatal(err)
	}
	if got := tags(t, l); !slices.Contains(got, "<none> a") || len(got) != 3 {
		t.Errorf("the old image is lost: %q", got)
	}
	for _, bad := range []string{"x@" + first.Digest.String(), "UPPER", ""} {
		if err := l.Tag(ctx, "y:1", bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("tag %q: %v", bad, err)
		}
	}
	if err := l.Tag(ctx, "nosuch", "z"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

// A few small documents must not keep anybody busy for ever: indexes that list one another many times.
func TestIndexesThatListEachOther(t *testing.T) {
	l := open(t)
	img := put(t, l, content.Host(), day, "a")
	root := img
	for range 8 {
		root = index(t, l, append(slices.Repeat([]ocispec.Descriptor{root}, 30), img)...)
		root.Platform = &ocispec.Platform{OS: "plan9", Architecture: "386"} // whoever looks for the image passes it by
	}
	root.Platform = nil
	host := serve(t)
	ref := tagged(t, host+"/x:1")
	name(t, l, root, "docker.io/library/x:1")
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() {
		err := l.Tag(ctx, "x:1", ref.String())
		if err == nil {
			err = l.Save(ctx, &bytes.Buffer{}, []string{ref.String()}, SaveOptions{})
		}
		if err == nil {
			_, err = l.Push(ctx, ref, PushOptions{})
		}
		if err == nil {
			_, err = l.Remove(ctx, ref.String(), RemoveOptions{})
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-ctx.Done():
		t.Fatal("it takes longer than 30 seconds")
	}
}

// An index may list what is no image: a Helm chart, a signature.
func TestArtifactInAnIndex(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	artifact := blob(t, l, ocispec.MediaTypeImageManifest, marshal(t, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/example",
		Config: blob(t, l, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{blob(t, l, "text/plain", []byte("hello"))},
	}))
	target := index(t, l, put(t, l, content.Host(), day, "a"), artifact)
	ref := tagged(t, serve(t)+"/x:1")
	name(t, l, target, ref.String())
	if got, err := l.Push(ctx, ref, PushOptions{}); err != nil || got.Target.Digest != target.Digest {
		t.Errorf("push: %+v, %v", got, err)
	}
	var saved bytes.Buffer
	if err := l.Save(ctx, &saved, []string{ref.String()}, SaveOptions{}); err != nil {
		t.Errorf("save: %v", err)
	}
	if got, err := open(t).Load(ctx, &saved, LoadOptions{}); err != nil || len(got) != 1 {
		t.Errorf("load: %+v, %v", got, err)
	}
	l2 := open(t)
	if pulled, err := l2.Pull(ctx, ref, PullOptions{}); err != nil || pulled.Target.Digest != target.Digest {
		t.Errorf("pull: %+v, %v", pulled, err)
	}
}
