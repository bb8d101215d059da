package library

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/listing"
)

// TestVariants shows, saves and removes the images that one name has for several platforms.
func TestVariants(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	mine, theirs := put(t, l, content.Host(), day, "a", "shared"), put(t, l, other, day, "b", "shared")
	absent := theirs
	absent.Digest, absent.Platform = "sha256:"+ocispec.DescriptorEmptyJSON.Digest[7:], &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	both := index(t, l, mine, theirs, absent)
	name(t, l, both, "docker.io/library/x:1", "docker.io/library/x:2")

	has := func(want ...string) {
		t.Helper()
		list, err := listing.Variants(ctx, l.Store, both)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range list {
			got = append(got, fmt.Sprint(content.PlatformString(v.Platform), " ", v.ID != "" && v.Content > 1024))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("variants: %s", diff)
		}
	}
	host := content.PlatformString(content.Host())
	has(host+" true", "linux/mips64le true", "linux/s390x false")

	d, err := l.Inspect(ctx, "x:1", InspectOptions{Platform: &other})
	if err != nil || d.Architecture != "mips64le" || d.Descriptor.Digest != theirs.Digest || len(d.RepoTags) != 2 {
		t.Errorf("inspect: %+v, %v", d, err)
	}
	steps, err := l.History(ctx, "x:1", InspectOptions{Platform: &other})
	if err != nil || len(steps) != 4 || steps[3].CreatedBy != "COPY b /" || len(steps[0].Tags) != 2 {
		t.Errorf("history: %+v, %v", steps, err)
	}
	missing := "image with reference x:1 was found but does not provide the specified platform (linux/s390x)"
	for what, err := range map[string]error{
		"inspect": second(l.Inspect(ctx, "x:1", InspectOptions{Platform: absent.Platform})),
		"save":    l.Save(ctx, &bytes.Buffer{}, []string{"x:1"}, SaveOptions{Platforms: []ocispec.Platform{*absent.Platform}}),
		"remove":  second(l.Remove(ctx, "x:1", RemoveOptions{Platforms: []ocispec.Platform{*absent.Platform}})),
	} {
		if !errdefs.IsNotFound(err) || err.Error() != missing {
			t.Errorf("%s: got %v", what, err)
		}
	}

	var users []Container
	l.Containers = func(context.Context) ([]Container, error) { return users, nil }
	remove := func(p ocispec.Platform, force bool) ([]Removal, error) {
		return l.Remove(ctx, "x:1", RemoveOptions{Force: force, Platforms: []ocispec.Platform{p}})
	}
	users = []Container{{ID: strings.Repeat("c", 64), Image: idOf(t, l, "x:1"), Running: true}}
	if _, err := remove(content.Host(), true); !errdefs.IsConflict(err) {
		t.Errorf("used: got %v", err)
	}
	users = nil
	name(t, l, mine, "docker.io/library/alone:1")
	if _, err := remove(content.Host(), true); !errdefs.IsConflict(err) {
		t.Errorf("also another image: got %v", err)
	}
	if _, err := l.Remove(ctx, "alone:1", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	got, err := remove(content.Host(), false)
	if diff := cmp.Diff([]Removal{{Deleted: mine.Digest.String()}}, got); err != nil || diff != "" {
		t.Errorf("remove: %v, %s", err, diff)
	}
	has(host+" false", "linux/mips64le true", "linux/s390x false")
	if d, err := l.Inspect(ctx, "x:2", InspectOptions{}); err != nil || d.Architecture != "mips64le" {
		t.Errorf("what is left: %+v, %v", d, err)
	}
	got, err = remove(other, false) // the last one that is here
	if diff := cmp.Diff([]Removal{{Untagged: "x:1"}}, got); err != nil || diff != "" {
		t.Errorf("remove the last: %v, %s", err, diff)
	}
}

func second[T any](_ T, err error) error { return err }

// TestSomePlatforms saves and loads some of the images that one name has, and leaves the others out.
func TestSomePlatforms(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	third := ocispec.Platform{OS: "linux", Architecture: "s390x"}
	mine, theirs := put(t, l, content.Host(), day, "a", "shared"), put(t, l, other, day, "b", "shared")
	both := index(t, l, mine, theirs, put(t, l, third, day, "c"))
	name(t, l, both, "docker.io/library/x:1")
	save := func(platforms ...ocispec.Platform) *bytes.Buffer {
		t.Helper()
		var out bytes.Buffer
		if err := l.Save(ctx, &out, []string{"x:1"}, SaveOptions{Platforms: platforms}); err != nil {
			t.Fatal(err)
		}
		return &out
	}
	load := func(to *Library, in *bytes.Buffer, platforms ...ocispec.Platform) {
		t.Helper()
		got, err := to.Load(ctx, in, LoadOptions{Platforms: platforms})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || len(got[0].Names) != 1 || got[0].Names[0] != "docker.io/library/x:1" {
			t.Errorf("loaded %+v", got)
		}
	}
	has := func(in *Library, want ...bool) {
		t.Helper()
		record, err := in.Store.Lookup(ctx, "x:1")
		if err != nil || record.Target.Digest != both.Digest {
			t.Fatalf("%+v, %v, want the index", record, err)
		}
		list, err := listing.Variants(ctx, in.Store, record.Target)
		if err != nil {
			t.Fatal(err)
		}
		var got []bool
		for _, v := range list {
			got = append(got, v.ID != "" && v.Content > 0)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("variants: %s", diff)
		}
	}
	blobs := func(in *Library) (n int) {
		if err := in.Store.Content.Walk(ctx, func(content.Info) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}

	l2 := open(t)
	load(l2, save(), other)
	has(l2, false, true, false)
	if n := blobs(l2); n != 5 { // index, manifest, config, two layers
		t.Errorf("%d blobs of one platform", n)
	}
	if img, err := l2.Inspect(ctx, "x:1", InspectOptions{Platform: &other}); err != nil || img.Architecture != other.Architecture {
		t.Errorf("%+v, %v", img, err)
	}
	load(l2, save(), content.Host(), other) // what is there stays
	has(l2, true, true, false)

	l3 := open(t)
	load(l3, save(content.Host(), third))
	has(l3, true, false, true)
	err := second(l3.Load(ctx, save(content.Host(), third), LoadOptions{Platforms: []ocispec.Platform{content.Host(), other}}))
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "image x:1 does not provide the requested platform (linux/"+other.Architecture+")") {
		t.Errorf("a platform that the archive has not: %v", err)
	}
	has(l3, true, false, true)

	// One platform alone is saved without the index.
	l4 := open(t)
	if _, err := l4.Load(ctx, save(other), LoadOptions{Platforms: []ocispec.Platform{other}}); err != nil {
		t.Fatal(err)
	}
	if record, err := l4.Store.Lookup(ctx, "x:1"); err != nil || record.Target.Digest != theirs.Digest {
		t.Errorf("%+v, %v", record, err)
	}
	err = second(open(t).Load(ctx, save(other), LoadOptions{Platforms: []ocispec.Platform{content.Host()}}))
	if !errdefs.IsNotFound(err) {
		t.Errorf("the image of another platform: %v", err)
	}
}

// TestVariantInUse: what a command has found stays until that has named it, or has ended.
func TestVariantInUse(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	mine, theirs := put(t, l, content.Host(), day, "a"), put(t, l, other, day, "b")
	name(t, l, index(t, l, mine, theirs), "docker.io/library/x:1")
	unpin, err := l.Store.Pin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Store.Hold(ctx, theirs); err != nil {
		t.Fatal(err)
	}
	remove := func() error { return second(l.Remove(ctx, "x:1", RemoveOptions{Platforms: []ocispec.Platform{other}})) }
	if err := remove(); !errdefs.IsConflict(err) {
		t.Errorf("while a command uses it: %v", err)
	}
	if err := l.Store.Hold(ctx, theirs); err != nil {
		t.Errorf("it went: %v", err)
	}
	if err := unpin(); err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if ok, err := l.Store.Content.Exists(ctx, theirs); ok || err != nil {
		t.Errorf("it is there: %v, %v", ok, err)
	}
}
