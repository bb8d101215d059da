package launch

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// shell is a program that runs a shell command.
func shell(t *testing.T, script string, before func(a *Assembler)) *Program {
	t.Helper()
	a := NewAssembler(Options{Slots: 3})
	if before != nil {
		before(a)
	}
	a.Note("running the shell")
	a.Call(unix.SYS_EXECVE, a.Str("/bin/sh"), a.Strings([]string{"sh", "-c", script}), a.Strings([]string{"A=b"}))
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// output starts p and returns what it wrote and how it ended.
func output(t *testing.T, p *Program) (string, Exit, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c, err := Start(p, []*os.File{null, w, w})
	w.Close()
	if err != nil {
		return "", Exit{}, err
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := c.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return string(out), exit, nil
}

func TestStartRuns(t *testing.T) {
	// The shell's own listing shows 0-2 and what it opened for ls.
	p := shell(t, `echo "$A"; cd /proc/self/fd; for i in *; do [ -e $i ] && echo $i; done; exit 7`, nil)
	got, exit, err := output(t, p)
	if err != nil {
		t.Fatal(err)
	}
	if want := "b\n0\n1\n2\n"; got != want {
		t.Errorf("output %q, want %q", got, want)
	}
	if want := (Exit{Code: 7}); exit != want {
		t.Errorf("exit %+v, want %+v", exit, want)
	}
}

func TestStartReportsSignal(t *testing.T) {
	_, exit, err := output(t, shell(t, `kill -TERM $$`, nil))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Exit{Code: 143, Signal: 15}); exit != want {
		t.Errorf("exit %+v, want %+v", exit, want)
	}
}

func TestStartReportsTheStep(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		errno      unix.Errno
		code       int
	}{
		{"missing", "/no/such/program", unix.ENOENT, 127},
		{"directory", "/", unix.EACCES, 126},
		{"no program", "/etc/passwd", unix.EACCES, 126},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := NewAssembler(Options{Slots: 3})
			a.Note("setting the mask")
			a.Call(unix.SYS_UMASK, Int(0o22))
			a.NoteExec(tt.path)
			a.Call(unix.SYS_EXECVE, a.Str(tt.path), a.Strings([]string{"x"}), a.Strings(nil))
			p, err := a.Program()
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = output(t, p)
			var step *StepError
			if !errors.As(err, &step) {
				t.Fatalf("error %v, want a StepError", err)
			}
			want := StepError{Step: 1, Name: "execve", Note: "exec: " + strconv.Quote(tt.path), Errno: tt.errno}
			if diff := cmp.Diff(want, *step); diff != "" {
				t.Error(diff)
			}
			if !errors.Is(err, tt.errno) || step.ExitCode() != tt.code {
				t.Errorf("%v: exit code %d, want %d", err, step.ExitCode(), tt.code)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	p := shell(t, `echo ran`, func(a *Assembler) {
		bad := a.CallIf(Cond{Ignore: []unix.Errno{unix.ENOENT}}, unix.SYS_OPENAT, Int(unix.AT_FDCWD), a.Str("/no/such"), Int(0), Int(0))
		good := a.CallIf(Cond{Unless: bad}, unix.SYS_OPENAT, Int(unix.AT_FDCWD), a.Str("/"), Int(0), Int(0))
		a.Fail(Cond{When: bad}, unix.EBADE)
		a.Fail(Cond{Unless: good}, unix.EBADE)
		a.Call(unix.SYS_FCHDIR, Result(bad)) // skipped
		a.Call(unix.SYS_FCHDIR, Result(good))
		n := a.Buffer(8)
		a.Store(n, Result(good), 4)
		a.Check(Cond{}, n, 4, 0xffffffff, 4, unix.EBADE) // 0-2, 3 is the control socket
		born := a.Born()
		a.Fail(Cond{When: born}, unix.EBADE)
	})
	if got, _, err := output(t, p); err != nil || got != "ran\n" {
		t.Errorf("%q, %v", got, err)
	}
	p = shell(t, `echo ran`, func(a *Assembler) {
		n := a.Bytes(Uint64(0x1234))
		a.Check(Cond{}, n, 2, 0xff00, 0x1300, unix.EXDEV)
	})
	if got, _, err := output(t, p); !errors.Is(err, unix.EXDEV) {
		t.Errorf("failed check: %q, %v", got, err)
	}
}

func TestExecTriesPaths(t *testing.T) {
	for _, tt := range []struct {
		name  string
		paths []string
		errno error
		code  int
	}{
		{"second", []string{"/no/sh", "/etc/passwd/sh", "/etc/passwd", "/bin/sh"}, nil, 0},
		{"none", []string{"/no/sh"}, unix.ENOENT, 127},
		{"no list", nil, unix.ENOENT, 127},
		{"one may not be executed", []string{"/etc/passwd", "/no/sh"}, unix.EACCES, 126},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := NewAssembler(Options{Slots: 3})
			x, y := a.Bytes([]byte("abc")), a.Bytes([]byte("abd"))
			a.Differ(Cond{}, x, y, 3, unix.EXDEV)
			a.Differ(Cond{Ignore: []unix.Errno{unix.EXDEV}}, x, y, 2, unix.EXDEV)
			a.Exec(tt.paths, []string{"sh", "-c", "echo hi"}, nil)
			p, err := a.Program()
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := output(t, p)
			var step *StepError
			if !errors.Is(err, tt.errno) || (err == nil) != (got == "hi\n") || (errors.As(err, &step) && step.ExitCode() != tt.code) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestForkMakesAChildOfTheStarter(t *testing.T) {
	p := shell(t, `echo $PPID`, func(a *Assembler) { a.Fork(0) })
	got, exit, err := output(t, p)
	if err != nil || exit.Code != 0 {
		t.Fatal(exit, err)
	}
	if want := os.Getpid(); strings.TrimSpace(got) != strconv.Itoa(want) {
		t.Errorf("parent %q, want %d", got, want)
	}
	p = shell(t, `true`, func(a *Assembler) { a.Fork(0); a.Fail(Cond{}, unix.EXDEV) })
	if _, _, err := output(t, p); !errors.Is(err, unix.EXDEV) {
		t.Errorf("failure behind a fork: %v", err)
	}
}

func TestStartManyAtOnce(t *testing.T) {
	p := shell(t, `exit 3`, func(a *Assembler) { a.Fork(0) })
	errs := make(chan error)
	for range 8 {
		go func() {
			for range 20 {
				null, err := os.Open("/dev/null")
				if err != nil {
					errs <- err
					return
				}
				c, err := Start(p, []*os.File{null, null, null})
				null.Close()
				if err != nil {
					errs <- err
					return
				}
				if exit, err := c.Wait(); err != nil || exit.Code != 3 {
					errs <- errors.Join(err, errors.New("wrong exit"))
					return
				}
			}
			errs <- nil
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestReadyReturnsBeforeExec(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a := NewAssembler(Options{Slots: 4})
	a.Ready()
	a.Call(unix.SYS_READ, Int(3), a.Buffer(1), Int(1))
	a.Call(unix.SYS_EXIT_GROUP, Int(9))
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(p, []*os.File{r, r, r, r})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if exit, err := c.Wait(); err != nil || exit.Code != 9 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// TestSignalBesideWait: a signal may come while the descriptor of its process is closed, whose number may then be
// of another process; the race detector sees it.
func TestSignalBesideWait(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c, err := Start(shell(t, `exit 3`, nil), []*os.File{null, null, null})
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		for err := error(nil); err == nil || errors.Is(err, unix.ESRCH); {
			err = c.Signal(unix.Signal(0))
		}
	}()
	if exit, err := c.Wait(); err != nil || exit.Code != 3 {
		t.Errorf("%+v, %v", exit, err)
	}
	<-refused
}

func TestMarshalRoundTrip(t *testing.T) {
	p := shell(t, `echo hi`, func(a *Assembler) {
		a.Note("a note")
		r := a.CallIf(Cond{Ignore: []unix.Errno{unix.ENOENT, AnyError}}, unix.SYS_UMASK, Int(-1))
		a.CallIf(Cond{When: r}, unix.SYS_UMASK, Result(r))
		a.Target(Int(unix.AT_FDCWD), "/", unix.S_IFDIR)
	})
	b, err := p.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != cap(b) {
		t.Errorf("%d bytes, made as %d", len(b), cap(b))
	}
	var q Program
	if err := q.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if got, want := q.String(), p.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, _, err := output(t, &q); err != nil || got != "hi\n" {
		t.Errorf("%q, %v", got, err)
	}
	for n := range b {
		var q Program
		if err := q.UnmarshalBinary(b[:n]); err == nil {
			t.Fatalf("accepted the first %d of %d bytes", n, len(b))
		}
	}
}

func TestExplain(t *testing.T) {
	p := shell(t, `true`, func(a *Assembler) {
		a.Note("opening things")
		how := a.Bytes(append(append(Uint64(unix.O_PATH|unix.O_CLOEXEC), Uint64(0)...), Uint64(unix.RESOLVE_IN_ROOT)...))
		r := a.CallIf(Cond{Ignore: []unix.Errno{unix.ENOENT}}, unix.SYS_OPENAT2, Int(unix.AT_FDCWD), a.Str("x"), how, Int(24))
		a.CallIf(Cond{When: r}, unix.SYS_FCHDIR, Result(r))
	})
	want := `clone(0)
# opening things
   0  r0 = openat2(AT_FDCWD, "x", {O_PATH|O_CLOEXEC, RESOLVE_IN_ROOT}, 24)  [ENOENT ok]
   1  fchdir(r0)  [if r0]
# running the shell
   2  execve("/bin/sh", ["sh", "-c", "true"], ["A=b"])
`
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Error(diff)
	}
}

func FuzzUnmarshal(f *testing.F) {
	a := NewAssembler(Options{Slots: 3})
	a.Note("x")
	a.Target(Int(3), "/a/b", 0o644)
	r := a.Store(a.Buffer(8), Int(3), 8)
	a.Check(Cond{When: r}, a.Buffer(4), 4, 1, 2, unix.EPERM)
	a.Call(unix.SYS_EXECVE, a.Str("/x"), a.Strings([]string{"x"}), a.Strings(nil))
	p, err := a.Program()
	if err != nil {
		f.Fatal(err)
	}
	b, _ := p.MarshalBinary()
	f.Add(b)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Program
		if p.UnmarshalBinary(b) != nil {
			return
		}
		_ = p.String()
		again, err := p.MarshalBinary()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("not the same bytes again: %v", err)
		}
	})
}

// TestBeginReturnsBeforeTheProgramIsDone: the process can be held while it works.
func TestBeginReturnsBeforeTheProgramIsDone(t *testing.T) {
	for _, forks := range []bool{false, true} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := shell(t, "exit 5", func(a *Assembler) {
			if forks {
				a.Fork(0)
			}
			a.Call(unix.SYS_READ, Int(0), a.Buffer(1), Int(1))
		})
		b, err := Begin(p, []*os.File{r, r, r})
		if err != nil {
			t.Fatal(err)
		}
		pidfd := b.PIDFD()
		if (pidfd == nil) != forks {
			t.Errorf("forks %v: pidfd %v", forks, pidfd)
		}
		if _, err := w.Write([]byte{1}); err != nil { // a child that had to be waited for would read for ever
			t.Fatal(err)
		}
		c, err := b.Follow()
		if err != nil {
			t.Fatal(err)
		}
		if !forks && c.PIDFD != pidfd {
			t.Error("the child has another pidfd")
		}
		if exit, err := c.Wait(); err != nil || exit.Code != 5 {
			t.Errorf("%+v, %v", exit, err)
		}
		r.Close()
		w.Close()
	}
}
