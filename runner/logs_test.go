package runner

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/test/privilege"
)

// TestLogRotation floods a log that is rotated and compressed often while somebody follows
// it: both he and who reads later see every line once and in order.
func TestLogRotation(t *testing.T) {
	e := newEngine(t)
	const lines = 20000
	o := sh(fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo "line $i"; i=$((i+1)); done`, lines))
	if err := o.SetLog("json-file", map[string]string{"max-size": "100k", "max-file": "60", "labels": "color"}); err != nil {
		t.Fatal(err)
	}
	o.Labels = map[string]string{"color": "red"}
	c := detached(t, e, "box", o)
	want := func(what, got string) {
		t.Helper()
		n := 0
		for line := range strings.Lines(got) {
			if line != fmt.Sprintf("line %d\n", n) {
				t.Fatalf("%s: line %d is %q", what, n, line)
			}
			n++
		}
		if n != lines {
			t.Errorf("%s: %d lines", what, n)
		}
	}
	want("followed", logs(t, e, "box", LogOptions{Follow: true, Tail: -1}))
	retry(t, func() error {
		if now := get(t, e, "box"); now.State.Keeper.Alive() {
			return fmt.Errorf("the keeper lives")
		}
		return nil
	})
	names := logNames(e.logFile(c.ID))
	packed := 0
	for _, n := range names {
		if strings.HasSuffix(n, ".gz") {
			packed++
		}
	}
	if len(names) < 10 || packed == 0 {
		t.Errorf("%d files, %d of them compressed", len(names), packed)
	}
	want("read", logs(t, e, "box", LogOptions{Tail: -1}))
	if got := logs(t, e, "box", LogOptions{Tail: 15000}); !strings.HasPrefix(got, "line 5000\n") || strings.Count(got, "\n") != 15000 {
		t.Errorf("the tail begins with %.20q", got)
	}
	if got := logs(t, e, "box", LogOptions{Tail: 1, Details: true}); got != fmt.Sprintf("color=red line %d\n", lines-1) {
		t.Errorf("details: %q", got)
	}
}

// TestLogOfForeignForm reads lines as docker writes them, with a long one in parts.
func TestLogOfForeignForm(t *testing.T) {
	p := &logPrinter{}
	var b bytes.Buffer
	p.w = newLogWriters(&b, &b)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	p.o.Timestamps = true
	fmt.Fprintln(f, `{"log":"be","stream":"stdout","time":"2026-01-02T03:04:05.1Z"}`)
	fmt.Fprintln(f, `{"log":"gin\tend\n","stream":"stdout","attrs":{"a":"b"},"time":"2026-01-02T03:04:05.2Z"}`)
	fmt.Fprintln(f, `no log line`)
	f.Seek(0, 0)
	if err := p.print(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	p.flush()
	if got := b.String(); got != "2026-01-02T03:04:05.1Z begin\tend\n" {
		t.Errorf("%q", got)
	}
}

// TestFollowOneRun follows a container that is restarted: dockerd's way ends with each run, and what two who follow
// one after the other see is all, once.
func TestFollowOneRun(t *testing.T) {
	e, dir := newEngine(t), t.TempDir()
	o := sh("echo said; while [ ! -e /dir/end ]; do sleep 0.01; done; rm /dir/end; exit 1")
	o.Mounts = []MountRequest{{Type: "bind", Source: dir, Target: "/dir"}}
	o.Restart = keeper.RestartPolicy{Name: "on-failure", MaxRetries: 2}
	c := detached(t, e, "box", o)
	for n := range 3 {
		await(t, "a run", func() bool { s := get(t, e, c.ID).State; return s.RestartCount == n && runs(s) })
		since := get(t, e, c.ID).State.StartedAt
		got := endingWriter{end: func() error { return os.WriteFile(dir+"/end", nil, 0o600) }}
		if err := e.Logs(t.Context(), c.ID, LogOptions{Follow: true, OneRun: true, Since: since, Tail: -1}, &got, &got); err != nil || got.String() != "said\n" {
			t.Errorf("run %d: %q, %v", n, got.String(), err)
		}
	}
	for _, one := range []bool{true, false} {
		if got := logs(t, e, c.ID, LogOptions{Follow: true, OneRun: one, Tail: -1}); got != "said\nsaid\nsaid\n" {
			t.Errorf("after the end: %q", got)
		}
	}
}

// endingWriter keeps what is written to it, and does something at the first of it.
type endingWriter struct {
	bytes.Buffer
	end func() error
}

func (w *endingWriter) Write(b []byte) (int, error) {
	if w.Len() == 0 {
		if err := w.end(); err != nil {
			return 0, err
		}
	}
	return w.Buffer.Write(b)
}

// TestTailOfOneStream: as in dockerd the last lines are those of both streams, of which the other one is left out.
func TestTailOfOneStream(t *testing.T) {
	e := newEngine(t)
	detached(t, e, "box", sh("echo out1; sleep 0.1; echo err1 >&2; sleep 0.1; echo out2; sleep 0.1; echo err2 >&2"))
	if _, err := e.Wait(t.Context(), "box"); err != nil {
		t.Fatal(err)
	}
	for n, want := range []string{"", "", "out2\n", "out2\n", "out1\nout2\n"} {
		var stdout, stderr bytes.Buffer
		if err := e.Logs(t.Context(), "box", LogOptions{Tail: n}, &stdout, &stderr); err != nil || stdout.String() != want {
			t.Errorf("tail %d: %q, %v, want %q", n, stdout.String(), err, want)
		}
	}
}

// TestFollowFromTheEnd follows a log that is rotated before anything is added: what was there is not told.
func TestFollowFromTheEnd(t *testing.T) {
	for _, compress := range []string{"true", "false"} {
		e, dir := newEngine(t), t.TempDir()
		o := sh("p=$(seq 300); for i in 1 2 3; do echo old$i $p; done; while [ ! -e /dir/go ]; do sleep 0.01; done; echo new1 $p; sleep 0.1; echo new2")
		o.Mounts = []MountRequest{{Type: "bind", Source: dir, Target: "/dir"}}
		if err := o.SetLog("json-file", map[string]string{"max-size": "1k", "max-file": "9", "compress": compress}); err != nil {
			t.Fatal(err)
		}
		c := detached(t, e, "box", o)
		await(t, "the old lines", func() bool { return strings.Contains(logs(t, e, "box", LogOptions{Tail: -1}), "old3") })
		var got bytes.Buffer
		done := make(chan error, 1)
		go func() { done <- e.Logs(t.Context(), c.ID, LogOptions{Follow: true}, &got, &got) }()
		await(t, "its reader", func() bool {
			fds, _ := filepath.Glob("/proc/self/fd/*")
			return slices.ContainsFunc(fds, func(fd string) bool { to, _ := os.Readlink(fd); return to == e.logFile(c.ID) })
		})
		if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || !strings.HasPrefix(got.String(), "new1 ") || strings.Count(got.String(), "\n") != 2 {
			t.Errorf("compress %s: %d lines, %.20q, %v", compress, strings.Count(got.String(), "\n"), got.String(), err)
		}
	}
}

// TestFollowedFiles: who follows a log sees all of it, once, whatever its files are like: there is only one, their lines are longer
// than any other, or the clock went back when they were written.
func TestFollowedFiles(t *testing.T) {
	e := newEngine(t)
	const lines = 3000
	script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo "line $i"; i=$((i+1)); [ $((i %% 20)) = 0 ] && sleep 0.02; done`, lines)
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	o := sh(script)
	if err := o.SetLog("json-file", map[string]string{"max-size": "20k", "max-file": "1"}); err != nil {
		t.Fatal(err)
	}
	c := detached(t, e, "", o)
	if got := logs(t, e, c.ID, LogOptions{Follow: true, Tail: -1}); got != want.String() {
		t.Errorf("one file: %d bytes, want %d", len(got), want.Len())
	}

	path := filepath.Join(t.TempDir(), "log")
	entry := func(i int) string { // the clock goes back
		return fmt.Sprintf(`{"log":"%s %d\n","stream":"stdout","time":"2026-01-02T03:04:05.%09dZ"}`+"\n", strings.Repeat(`\u0001`, 60<<10), i, 100-i)
	}
	var followed *os.File
	for i := range 4 {
		name := path
		if i < 3 {
			name = fmt.Sprintf("%s.%d", path, 3-i)
		}
		if err := os.WriteFile(name, []byte(entry(i)), 0o600); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			followed = f
		}
	}
	files, err := openLogs(path)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(files)
	if got := newer(files, followed); len(got) != 2 || got[0].Name() != path+".1" {
		t.Errorf("%d files are newer", len(got))
	}
	if got := newer(files[2:], followed); len(got) != 2 {
		t.Errorf("%d files are newer than one that was dropped", len(got))
	}
}

// TestLogThatIsEmptied: whoever makes room by emptying the log of a container does not end those who follow it.
func TestLogThatIsEmptied(t *testing.T) {
	e, dir := newEngine(t), t.TempDir()
	o := sh("seq 500; while [ ! -e /dir/go ]; do sleep 0.01; done; seq 501 600")
	o.Mounts = []MountRequest{{Type: "bind", Source: dir, Target: "/dir"}}
	c := detached(t, e, "", o)
	var got syncBuffer
	ended := make(chan error)
	go func() { ended <- e.Logs(t.Context(), c.ID, LogOptions{Follow: true, Tail: -1}, &got, &got) }()
	await(t, "the first lines", func() bool { return strings.HasSuffix(got.String(), "\n500\n") })
	if err := errors.Join(os.Truncate(e.logFile(c.ID), 0), os.WriteFile(dir+"/go", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range 600 {
		fmt.Fprintln(&want, i+1)
	}
	if err := <-ended; err != nil || got.String() != want.String() {
		t.Errorf("%d bytes, want %d; %v", len(got.String()), want.Len(), err)
	}
	// Nor does a file that is damaged keep anybody from reading the others.
	if err := os.WriteFile(e.logFile(c.ID)+".1.gz", []byte("no gzip"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := logs(t, e, c.ID, LogOptions{Tail: -1}); !strings.HasSuffix(got, "\n600\n") {
		t.Errorf("%d bytes", len(got))
	}
}

// TestLogWithoutRoom: files that were compressed can be read where nothing can be written.
func TestLogWithoutRoom(t *testing.T) {
	privilege.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	want := strings.Repeat("line\n", 100000)
	zw.Write([]byte(want))
	if err := errors.Join(zw.Close(), os.WriteFile(dir+"/log.1.gz", packed.Bytes(), 0o600), os.WriteFile(dir+"/log", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, how := range []uintptr{0, unix.MS_RDONLY} { // no room; no writing
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|how, "size=64k"); err != nil {
			t.Fatal(err)
		}
		files, err := openLogs(dir + "/log")
		if err != nil || len(files) != 2 {
			t.Fatalf("%d files, %v", len(files), err)
		}
		if got, err := io.ReadAll(files[0]); err != nil || string(got) != want {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		closeFiles(files)
	}
}
