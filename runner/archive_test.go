package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/event"
	"github.com/teu-dev/teu/runner/keeper"
)

// tarOf makes an archive of files, with the owner 7:8.
func tarOf(t *testing.T, files ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range files {
		text := h.Uname // carried there
		h.Uname, h.Size, h.Uid, h.Gid = "", int64(len(text)), 7, 8
		if h.Mode == 0 {
			h.Mode = 0o640
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	w.Close()
	return &b
}

func untar(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	got := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(tr)
		got[h.Name] = fmt.Sprintf("%c %o %d:%d %s%s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, b)
	}
}

// TestCopy copies into and out of a container that runs and one that does not, with a
// volume in it and links that lead out of its root.
func TestCopy(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	o := sh(`ln -s / /tmp/out; ln -s ../../../../../../../tmp /tmp/up; exec sleep 60`)
	o.Mounts = []MountRequest{{Type: "volume", Source: "keep", Target: "/keep"}}
	detached(t, e, "box", o)
	retry(t, func() error { _, err := e.StatPath(ctx, "box", "/tmp/up"); return err })
	for _, state := range []string{"running", "stopped"} {
		t.Run(state, func(t *testing.T) {
			if state == "stopped" {
				if err := e.Kill(ctx, "box", ""); err != nil {
					t.Fatal(err)
				}
				if _, err := e.Wait(ctx, "box"); err != nil {
					t.Fatal(err)
				}
			}
			archive := tarOf(t, tar.Header{Name: "d/f", Uname: state}, tar.Header{Name: "d/l", Typeflag: tar.TypeSymlink, Linkname: "f"},
				tar.Header{Name: "d/h", Typeflag: tar.TypeLink, Linkname: "d/f"}, tar.Header{Name: "/x/../e", Uname: "up"})
			if err := e.CopyTo(ctx, "box", "/keep/.", archive, CopyToOptions{}); err != nil {
				t.Fatal(err)
			}
			r, st, err := e.CopyFrom(ctx, "box", "/keep")
			if err != nil {
				t.Fatal(err)
			}
			got := untar(t, r)
			r.Close()
			delete(got, "keep/")
			want := map[string]string{"keep/d/": "5 755 0:0 ", "keep/d/f": "0 640 7:8 " + state, "keep/d/l": "2 777 7:8 f", "keep/e": "0 640 7:8 up",
				"keep/d/h": "1 640 7:8 keep/d/f"}
			if d := cmp.Diff(want, got); d != "" || st.Name != "keep" || !st.Mode.IsDir() {
				t.Errorf("%s %+v", d, st)
			}
			link, err := e.StatPath(ctx, "box", "/tmp/out")
			if err != nil || link.LinkTarget != "/" || link.Mode&fs.ModeSymlink == 0 {
				t.Errorf("link %+v, %v", link, err)
			}
			if _, err := e.StatPath(ctx, "box", "/tmp/out/nosuch"); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("a missing file gives %v", err)
			}
			err = e.CopyTo(ctx, "box", "/keep/d/f", tarOf(t), CopyToOptions{})
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("copying into a file gives %v", err)
			}
			err = e.CopyTo(ctx, "box", "/keep", tarOf(t, tar.Header{Name: "d", Uname: "x"}), CopyToOptions{NoOverwriteDirNonDir: true})
			if err == nil || !strings.Contains(err.Error(), "cannot overwrite directory") {
				t.Errorf("overwriting a directory gives %v", err)
			}
			for _, h := range []tar.Header{{Name: "../e"}, {Name: "d/../../e"}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "../etc/passwd"}} {
				if err := e.CopyTo(ctx, "box", "/keep", tarOf(t, h), CopyToOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Errorf("%s %s: %v", h.Name, h.Linkname, err)
				}
			}
		})
	}
	if _, _, err := e.CopyFrom(ctx, "box", "/nosuch"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
}

func retry(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// TestChangesCommitExport changes files in all ways and looks at them as a list, as an
// image and as an archive.
func TestChangesCommitExport(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	o := sh(`rm /vol-not 2>/dev/null; echo new >/tmp/new; rm /etc/group; echo x >>/etc/passwd; mkdir /opaque; rm -r /home; mkdir -p /home/other`)
	o.Env = []string{"A=b"}
	detached(t, e, "box", o)
	if s, err := e.Wait(ctx, "box"); err != nil || s.Code != 0 {
		t.Fatal(s, err, logs(t, e, "box", LogOptions{Tail: -1}))
	}
	changes, err := e.Changes(ctx, "box")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, c := range changes {
		list = append(list, c.Kind.String()+" "+c.Path)
	}
	for _, want := range []string{"C /tmp", "A /tmp/new", "C /etc", "D /etc/group", "C /etc/passwd", "A /opaque", "C /home", "A /home/other", "D /home/dev", "A /vol"} {
		if !slices.Contains(list, want) && want != "A /vol" {
			t.Errorf("%q is missing in %q", want, list)
		}
	}
	for _, l := range list {
		if strings.Contains(l, "hosts") || strings.Contains(l, "/proc") {
			t.Errorf("%q is of our own making", l)
		}
	}
	id, err := e.Commit(ctx, "box", CommitOptions{Name: "made:1", Author: "me", Comment: "why", Pause: true,
		Changes: []string{"ENV C=d", `CMD ["sh","-c","cat /tmp/new; ls /home; ls /etc/group; echo $A$C"]`, "LABEL x=y"}})
	if err != nil {
		t.Fatal(err)
	}
	if out, stderr, _ := run(t, e, Options{Image: "made:1"}); out != "new\nother\nbd\n" {
		t.Errorf("the image %s says %q, %q", id, out, stderr)
	}
	if _, err := e.Commit(ctx, "box", CommitOptions{Changes: []string{"RUN true"}}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("RUN in a change gives %v", err)
	}
	var b bytes.Buffer
	if err := e.Export(ctx, "box", &b); err != nil {
		t.Fatal(err)
	}
	files := untar(t, &b)
	if files["tmp/new"] != "0 644 0:0 new\n" || files["bin/sh"] == "" || files["etc/group"] != "" {
		t.Errorf("exported %v", files)
	}
}

func TestEvents(t *testing.T) {
	e := newEngine(t)
	ctx, cancel := context.WithCancel(t.Context())
	since := time.Now()
	seen := make(chan string, 100)
	done := make(chan error)
	go func() {
		done <- e.Events(ctx, EventOptions{Since: since, Filters: map[string][]string{"type": {"container"}, "container": {"box"}}}, func(ev event.Event) error {
			seen <- ev.Action + " " + ev.Actor.Attributes["name"] + " " + ev.Actor.Attributes["exitCode"]
			return nil
		})
	}()
	detached(t, e, "box", sh("exec sleep 60"))
	detached(t, e, "other", sh("exec sleep 60"))
	if out, code := execOut(t, e, "box", ExecOptions{Args: []string{"true"}}); out != "" || code != 0 {
		t.Fatal(out, code)
	}
	if _, err := e.Exec(ctx, "box", ExecOptions{Args: []string{"missing", "file"}}); err == nil {
		t.Error("a command that is not there is executed")
	}
	short := time.Duration(0)
	if err := e.Stop(ctx, "box", StopOptions{Timeout: &short}); err != nil {
		t.Fatal(err)
	}
	if err := e.Remove(ctx, "box", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"create box ", "start box ", "exec_create: true  box ", "exec_start: true  box ", "exec_die box 0",
		"exec_create: missing file box ", "exec_start: missing file box ", "kill box ", "kill box ", "die box 137", "stop box ", "destroy box "}
	var got []string
	for range want {
		select {
		case s := <-seen:
			got = append(got, s)
		case <-time.After(10 * time.Second):
			t.Fatalf("only %q", got)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	n := 0
	err := e.Events(t.Context(), EventOptions{Since: since, Until: time.Now()}, func(event.Event) error { n++; return nil })
	if err != nil || n < len(want)+2 {
		t.Errorf("%d events of the past, %v", n, err)
	}
}

func TestNotedExec(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	detached(t, e, "box", sh("exec sleep 60"))
	id, err := e.ExecCreate(ctx, "box", ExecOptions{Args: []string{"sh", "-c", "read x; echo $x; exit 3"}, Stdin: true, Output: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	if x, err := e.ExecInspect(ctx, id); err != nil || x.Running || x.ExitCode != nil || x.Options.Args[0] != "sh" {
		t.Errorf("%+v, %v", x, err)
	}
	p, err := e.ExecStart(ctx, id, ExecStartOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if x, err := e.ExecInspect(ctx, id); err != nil || !x.Running || x.Pid == 0 {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := e.ExecStart(ctx, id, ExecStartOptions{}); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("a second start gives %v", err)
	}
	io.WriteString(p.Stdin, "hello\n")
	if b, _ := io.ReadAll(p.Stdout); string(b) != "hello\n" {
		t.Errorf("%q", b)
	}
	if s, err := p.Wait(ctx); err != nil || s.Code != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	p.Close()
	if x, err := e.ExecInspect(ctx, id); err != nil || x.Running || x.ExitCode == nil || *x.ExitCode != 3 {
		t.Errorf("%+v, %v", x, err)
	}
	id, err = e.ExecCreate(ctx, "box", ExecOptions{Args: []string{"sh", "-c", "tty && exit 4"}, TTY: true, Output: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	if p, err = e.ExecStart(ctx, id, ExecStartOptions{Detach: true}); err != nil {
		t.Fatal(err)
	}
	p.Close()
	retry(t, func() error {
		x, err := e.ExecInspect(ctx, id)
		if err == nil && (x.ExitCode == nil || *x.ExitCode != 4) {
			err = fmt.Errorf("%+v", x)
		}
		return err
	})
	if _, err := e.ExecInspect(ctx, strings.Repeat("0", 64)); !errors.Is(err, errdefs.ErrNotFound) {
		t.Error(err)
	}
	if err := errors.Join(e.sweepExecs(get(t, e, "box").ID, time.Now().Add(-time.Hour)), e.sweepExecs("nosuch", time.Now())); err != nil {
		t.Error(err)
	}
	if _, err := e.ExecInspect(ctx, id); err != nil {
		t.Errorf("one that has just ended: %v", err)
	}
	if err := e.sweepExecs(get(t, e, "box").ID, time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	if _, err := e.ExecInspect(ctx, id); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("one that ended long ago: %v", err)
	}
}

// A client asks for the exit code of a command that ended with its container.
func TestExecOfEnded(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c := detached(t, e, "box", sh("exec sleep 60"))
	id, err := e.ExecCreate(ctx, "box", ExecOptions{Args: []string{"sleep", "60"}, Output: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	p, err := e.ExecStart(ctx, id, ExecStartOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Kill(ctx, "box", ""); err != nil {
		t.Fatal(err)
	}
	if s, err := p.Wait(ctx); err != nil || s.Code != 137 {
		t.Errorf("%+v, %v", s, err)
	}
	p.Close()
	if _, err := e.Wait(ctx, "box"); err != nil {
		t.Fatal(err)
	}
	if x, err := e.ExecInspect(ctx, id); err != nil || x.Running || x.ExitCode == nil || *x.ExitCode != 137 {
		t.Errorf("%+v, %v", x, err)
	}
	if err := e.ExecResize(ctx, id, 1, 1); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("its terminal: %v", err)
	}
	if in, err := e.Inspect(ctx, "box"); err != nil || in.ExecIDs != nil {
		t.Errorf("the container's: %v, %v", in.ExecIDs, err)
	}
	if err := e.Remove(ctx, "box", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.ExecInspect(ctx, id); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("of a container that is gone: %v", err)
	}
	if _, err := os.Stat(e.execDir(c.ID)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}

func TestStatsAndUpdate(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	o := sh("trap 'exit 1' USR1; echo ready; sleep 60 & wait")
	o.Network = "bridge"
	c := detached(t, e, "box", o)
	retry(t, func() error {
		if logs(t, e, "box", LogOptions{Tail: -1}) != "ready\n" {
			return errors.New("it does not wait for the signal yet")
		}
		return nil
	})
	s, err := e.Stats(ctx, "box")
	if err != nil || s.Pids == 0 || s.HostCPU == 0 || s.Networks["eth0"] == (NetworkStats{}) && len(s.Networks) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	limit, swap := int64(64<<20), int64(128<<20)
	if _, err := e.Update(ctx, "box", UpdateOptions{
		Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap}},
		Restart:   &keeper.RestartPolicy{Name: "on-failure", MaxRetries: 2},
	}); err != nil {
		t.Fatal(err)
	}
	if s, err = e.Stats(ctx, "box"); err != nil || s.MemoryLimit != 64<<20 {
		t.Errorf("limit %d, %v", s.MemoryLimit, err)
	}
	if err := e.Kill(ctx, c.ID, "USR1"); err != nil { // ends it, and the new policy starts it again
		t.Fatal(err)
	}
	retry(t, func() error {
		now, err := e.Get(ctx, "box")
		if err == nil && now.State.RestartCount != 1 {
			err = fmt.Errorf("%+v", now.State)
		}
		return err
	})
	if o := get(t, e, "box").Options; o.Restart.Name != "on-failure" || *o.Resources.Memory.Limit != 64<<20 {
		t.Errorf("%+v", o)
	}
}
