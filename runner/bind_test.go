package runner

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/teu-dev/teu/test/privilege"
)

func TestParseBind(t *testing.T) {
	for text, want := range map[string]MountRequest{
		"/d":               {Type: "volume", Target: "/d"},
		"name:/d":          {Type: "volume", Source: "name", Target: "/d"},
		"/s:/d":            {Type: "bind", Source: "/s", Target: "/d", MakeSource: true},
		"/s:/d:ro,z":       {Type: "bind", Source: "/s", Target: "/d", MakeSource: true, ReadOnly: true, Mode: "ro,z"},
		"/s:/d:rshared,U":  {Type: "bind", Source: "/s", Target: "/d", MakeSource: true, Propagation: "rshared", Chown: true, Mode: "rshared,U"},
		"name:/d:nocopy":   {Type: "volume", Source: "name", Target: "/d", NoCopy: true, Mode: "nocopy"},
		"/s:/d:cached,rw":  {Type: "bind", Source: "/s", Target: "/d", MakeSource: true, Mode: "cached,rw"},
		"/s:/d:noexec,dev": {Type: "bind", Source: "/s", Target: "/d", MakeSource: true, Mode: "noexec,dev", Options: []string{"noexec", "dev"}},
	} {
		got, err := ParseBind(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
	for _, text := range []string{"", ":", "a:", ":/d", "/", "/s:/", "/s:/..", "rel", "/s:rel", "/s:/d:", "/s:/d:x", "/s:/d:ro,ro", "/s:/d:z,Z", "/s:/d:nocopy", "v:/d:shared", "/a:/b:ro:x"} {
		if m, err := ParseBind(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, m)
		}
	}
}

func FuzzParseBind(f *testing.F) {
	for _, text := range []string{"/d", "name:/d:nocopy", "/s:/d:ro,z,rslave,U", "::", "/s:/d:,"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseBind(text)
		if err == nil && (!filepath.IsAbs(m.Target) || filepath.Clean(m.Target) == "/" || (m.Type == "bind") != filepath.IsAbs(m.Source)) {
			t.Errorf("%q gives %+v", text, m)
		}
	})
}

// TestChownTreeStaysInside exchanges a directory for a link to the outside all the while.
func TestChownTreeStaysInside(t *testing.T) {
	privilege.NeedRoot(t)
	base := t.TempDir()
	inside, outside := filepath.Join(base, "in"), filepath.Join(base, "out")
	for _, dir := range []string{filepath.Join(inside, "a/deep"), filepath.Join(outside, "deep")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(inside, "link")); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		a, b := filepath.Join(inside, "a"), filepath.Join(inside, "b")
		for {
			select {
			case <-stop:
				return
			default:
			}
			os.Rename(a, b)
			os.Symlink(outside, a)
			os.Remove(a)
			os.Rename(b, a)
		}
	}()
	for i := range 300 {
		chownTree(inside, 1000+i, 1000) // it may fail over what vanishes
	}
	close(stop)
	<-stopped
	for _, path := range []string{outside, filepath.Join(outside, "deep"), filepath.Join(outside, "deep/f")} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
			t.Errorf("%s belongs to %d now", path, uid)
		}
	}
	if err := chownTree(inside, 7, 8); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(filepath.Join(inside, "a/deep/f"))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 7 {
		t.Errorf("the file inside: %v, %v", info, err)
	}
}

// TestSubpathStaysInside exchanges part of a volume for a link while containers start on
// a directory below it: each sees the directory, or does not start.
func TestSubpathStaysInside(t *testing.T) {
	e := newEngine(t)
	ctx := t.Context()
	v, err := e.CreateVolume(ctx, VolumeOptions{Name: "shared"})
	if err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	if err := os.MkdirAll(filepath.Join(outside, "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	a, spare := filepath.Join(v.Mountpoint, "a"), filepath.Join(v.Mountpoint, "spare")
	if err := os.MkdirAll(filepath.Join(a, "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a, "b/marker"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := e.Create(ctx, "", Options{
		Image: "busybox", Network: "none", Args: []string{"sh", "-c", "test -e /s/marker"},
		Mounts: []MountRequest{{Type: "volume", Source: "shared", Target: "/s", Subpath: "a/b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			os.Rename(a, spare)
			os.Symlink(outside, a)
			os.Remove(a)
			os.Rename(spare, a)
		}
	}()
	started := 0
	for range 30 {
		if _, err := e.Start(ctx, c.ID, StartOptions{}); err != nil {
			continue
		}
		started++
		if status, err := e.Wait(ctx, c.ID); err != nil || status.Code != 0 {
			t.Errorf("the container saw another directory: %+v, %v", status, err)
		}
	}
	close(stop)
	<-stopped
	if started == 0 {
		t.Log("no container started while the directory was exchanged")
	}
	if _, err := e.Start(ctx, c.ID, StartOptions{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
