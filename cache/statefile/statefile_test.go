package statefile_test

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/test/privilege"
)

type document struct {
	A, B int
	Pad  string
}

func TestWriteRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.json")
	for i, o := range []statefile.WriteOptions{{}, {Durable: true}} {
		want := document{A: i, B: i}
		if err := statefile.Write(path, want, o); err != nil {
			t.Fatal(err)
		}
		var got document
		if err := statefile.Read(path, &got); err != nil || got != want {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	if left := names(t, filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	var d document
	err := statefile.Read(filepath.Join(dir, "absent"), &d)
	if !errdefs.IsNotFound(err) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: got %v, want both kinds of not found", err)
	}
	for name, test := range map[string]struct {
		data string
		want func(error) bool
	}{
		"empty":     {"", errdefs.IsDataLoss},
		"half":      {`{"A":`, errdefs.IsDataLoss},
		"zeros":     {strings.Repeat("\x00", 100), errdefs.IsDataLoss},
		"too large": {`{"Pad":"` + strings.Repeat("x", 8<<20) + `"}`, errdefs.IsResourceExhausted},
	} {
		path := filepath.Join(dir, "d")
		if err := os.WriteFile(path, []byte(test.data), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := statefile.Read(path, &d); !test.want(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := statefile.Write(filepath.Join(dir, "d"), document{Pad: strings.Repeat("x", 8<<20)}, statefile.WriteOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("writing what could not be read: got %v, want invalid argument", err)
	}
	if err := statefile.Write(filepath.Join(dir, "no", "dir"), d, statefile.WriteOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: got %v, want not exist", err)
	}
}

// TestReadersNeverSeeHalf has writers in other processes, some of which are killed.
func TestReadersNeverSeeHalf(t *testing.T) {
	if path := os.Getenv("TEU_TEST_WRITE"); path != "" {
		for i := 0; ; i++ {
			d := document{A: i, B: i, Pad: strings.Repeat("x", i%50000)}
			if err := statefile.Write(path, d, statefile.WriteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "d.json")
	if err := statefile.Write(path, document{}, statefile.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for range 10 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestReadersNeverSeeHalf$")
		cmd.Env = append(os.Environ(), "TEU_TEST_WRITE="+path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for before := len(seen); len(seen) < before+50; {
			var d document
			if err := statefile.Read(path, &d); err != nil || d.A != d.B || len(d.Pad) != d.A%50000 {
				t.Fatalf("read %d, %d, %d bytes, %v", d.A, d.B, len(d.Pad), err)
			}
			seen[d.A] = true
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * time.Hour)
	for name, age := range map[string]time.Time{".tmp-1": old, ".tmp-2": time.Now(), "document": old} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, age, age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := statefile.Sweep(dir); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range names(t, dir) {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != ".tmp-2 document" {
		t.Errorf("left: %v", got)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	shared := statefile.LockOptions{Shared: true}
	for name, test := range map[string]struct {
		first, second statefile.LockOptions
		ok            bool
	}{
		"exclusive twice":        {statefile.LockOptions{}, statefile.LockOptions{}, false},
		"shared twice":           {shared, shared, true},
		"exclusive after shared": {shared, statefile.LockOptions{}, false},
		"shared after exclusive": {statefile.LockOptions{}, shared, false},
	} {
		t.Run(name, func(t *testing.T) {
			unlock, err := statefile.Lock(t.Context(), path, test.first)
			if err != nil {
				t.Fatal(err)
			}
			second, ok, err := statefile.TryLock(path, test.second)
			if ok != test.ok || err != nil {
				t.Fatalf("TryLock: %v, %v, want %v", ok, err, test.ok)
			}
			if ok {
				second()
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errDone)
			if !test.ok {
				if _, err := statefile.Lock(ctx, path, test.second); !errors.Is(err, errDone) {
					t.Errorf("Lock with an ended context: %v, want its cause", err)
				}
			}
			if err := unlock(); err != nil {
				t.Fatal(err)
			}
			third, err := statefile.Lock(t.Context(), path, test.second)
			if err != nil {
				t.Fatalf("Lock after unlock: %v", err)
			}
			third()
		})
	}
	if _, err := statefile.Lock(t.Context(), filepath.Join(t.TempDir(), "no", "lock"), shared); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: got %v, want not exist", err)
	}
}

var errDone = errors.New("done")

// TestLockExcludes counts in a file with many goroutines, which remove the lock file as they may.
func TestLockExcludes(t *testing.T) {
	dir := t.TempDir()
	lock, counter := filepath.Join(dir, "lock"), filepath.Join(dir, "counter")
	if err := os.WriteFile(counter, []byte("0"), 0o600); err != nil {
		t.Fatal(err)
	}
	const goroutines, turns = 8, 25
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for range turns {
				unlock, err := statefile.Lock(t.Context(), lock, statefile.LockOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				data, _ := os.ReadFile(counter)
				n, _ := strconv.Atoi(string(data))
				if err := os.WriteFile(counter, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
					t.Error(err)
				}
				if g%2 == 0 {
					if err := os.Remove(lock); err != nil {
						t.Error(err)
					}
				}
				if err := unlock(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got, _ := os.ReadFile(counter); string(got) != strconv.Itoa(goroutines*turns) {
		t.Errorf("counted to %s, want %d", got, goroutines*turns)
	}
}

// TestDeadProcessHoldsNoLock kills a process that holds one.
func TestDeadProcessHoldsNoLock(t *testing.T) {
	if path := os.Getenv("TEU_TEST_LOCK"); path != "" {
		if _, err := statefile.Lock(t.Context(), path, statefile.LockOptions{}); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("locked\n")
		select {}
	}
	path := filepath.Join(t.TempDir(), "lock")
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeadProcessHoldsNoLock$")
	cmd.Env = append(os.Environ(), "TEU_TEST_LOCK="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "locked\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if _, ok, err := statefile.TryLock(path, statefile.LockOptions{}); ok || err != nil {
		t.Errorf("while it lives: %v, %v", ok, err)
	}
	p, err := statefile.Identify(cmd.Process.Pid)
	if err != nil || !p.Alive() {
		t.Errorf("it is not alive: %v, %v", p, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// It is a zombie until Wait, which is not alive, but still closes its files.
	unlock, err := statefile.Lock(t.Context(), path, statefile.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	cmd.Wait()
	if p.Alive() {
		t.Error("it is alive after its end")
	}
	if _, err := statefile.Identify(p.PID); !errdefs.IsNotFound(err) {
		t.Errorf("Identify after its end: %v, want not found", err)
	}
}

func TestProcess(t *testing.T) {
	self, err := statefile.Self()
	if err != nil || self.PID != os.Getpid() || self.BootID == "" || self.StartTime == 0 || !self.Alive() {
		t.Fatalf("%+v, %v", self, err)
	}
	for name, other := range map[string]statefile.Process{
		"earlier process of the pid": {PID: self.PID, StartTime: self.StartTime - 1, BootID: self.BootID},
		"of an earlier boot":         {PID: self.PID, StartTime: self.StartTime, BootID: "other"},
		"none":                       {},
		"group":                      {PID: -self.PID, StartTime: self.StartTime, BootID: self.BootID},
	} {
		if other.Alive() {
			t.Errorf("%s: alive", name)
		}
	}
}

// On a full disk a document goes where the one before is, or leaves it as it is.
func TestOverwrite(t *testing.T) {
	privilege.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "d.json")
	if err := statefile.Write(path, document{Pad: strings.Repeat("x", 1000)}, statefile.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "full"), make([]byte, 128<<10), 0o600); !statefile.NoRoom(err) {
		t.Fatal(err)
	}
	if err := statefile.Write(path, document{A: 1}, statefile.WriteOptions{}); !statefile.NoRoom(err) {
		t.Error(err)
	}
	for i, size := range []int{10, 3000, 0, 200, 4000} {
		want := document{A: i, Pad: strings.Repeat("y", size)}
		if err := statefile.Write(path, want, statefile.WriteOptions{Overwrite: true, Durable: i%2 == 0}); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		var got document
		if err := statefile.Read(path, &got); err != nil || got != want {
			t.Errorf("%d bytes: %+v, %v", size, got, err)
		}
	}
	if err := statefile.Write(path, document{Pad: strings.Repeat("z", 5000)}, statefile.WriteOptions{Overwrite: true}); !statefile.NoRoom(err) {
		t.Error(err)
	}
	var got document
	if err := statefile.Read(path, &got); err != nil || got.A != 4 {
		t.Errorf("%+v, %v", got, err)
	}
	if left := names(t, dir); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}
