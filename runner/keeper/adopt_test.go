package keeper

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// killKeeper ends the present keeper as an unlucky administrator would.
func killKeeper(t *testing.T, cfg Config) {
	t.Helper()
	id := readState(cfg).Keeper
	unix.Kill(id.PID, unix.SIGKILL)
	if !await(func() bool { return !id.Alive() }) {
		t.Fatal("the keeper does not die")
	}
}

// The keeper is killed again and again while the container talks; in the end every line
// is in the log once, in order, and the exit code is there.
func TestAdoptLosesNoLine(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.Log.MaxSize, cfg.Log.MaxFiles = 200<<10, 5
	const lines = 6000
	start(t, b, cfg, shell(t, 3, fmt.Sprintf(
		`i=0; while [ $i -lt %d ]; do echo "line $i"; i=$((i+1)); [ $((i %% 100)) = 0 ] && sleep 0.005; done; printf end; exit 42`, lines)),
		StartOptions{})
	kills := 0
	for kills < 100 && readState(cfg).Status == Running { // on a slow machine none would live to see the end
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		killKeeper(t, cfg)
		kills++
		if err := Adopt(t.Context(), b, cfg.RunDir); err != nil {
			t.Fatal(err)
		}
	}
	if !await(func() bool { return readState(cfg).Status == Exited }) {
		t.Fatalf("state %+v", readState(cfg))
	}
	if st := readState(cfg); st.ExitCode != 42 {
		t.Errorf("state %+v", st)
	}
	entries := logEntries(t, cfg)
	for i, e := range entries {
		want := fmt.Sprintf("line %d\n", i)
		if i == lines {
			want = "end"
		}
		if e.Log != want {
			t.Fatalf("entry %d is %q, want %q (after %d kills)", i, e.Log, want, kills)
		}
	}
	if len(entries) != lines+1 {
		t.Errorf("%d entries, want %d (after %d kills)", len(entries), lines+1, kills)
	}
	t.Logf("%d kills", kills)
}

func TestAdoptKeepsExitCode(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.OpenStdin = true
	start(t, b, cfg, shell(t, 3, `read x; echo "got $x"; exit 17`), StartOptions{})
	killKeeper(t, cfg)
	if err := Adopt(t.Context(), b, cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	k := At(cfg.RunDir)
	s, err := k.Attach(t.Context(), AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fmt.Fprint(s.Stdin(), "word\n")
	var out bytes.Buffer
	e, err := s.Copy(&out, &out)
	if err != nil || e.Code != 17 || out.String() != "got word\n" {
		t.Errorf("%q, %+v, %v", &out, e, err)
	}
}

func TestAdoptKeepsTerminal(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.TTY, cfg.OpenStdin = true, true
	start(t, b, cfg, terminal(t, `read x; echo "got $x"; exit 18`), StartOptions{})
	killKeeper(t, cfg)
	time.Sleep(50 * time.Millisecond) // a hang-up would end the shell
	if err := Adopt(t.Context(), b, cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	k := At(cfg.RunDir)
	s, err := k.Attach(t.Context(), AttachOptions{Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fmt.Fprint(s.Stdin(), "word\n")
	var out bytes.Buffer
	e, err := s.Copy(&out, &out)
	if err != nil || e.Code != 18 || out.String() != "word\r\ngot word\r\n" {
		t.Errorf("%q, %+v, %v", &out, e, err)
	}
}

func TestAdoptOfADeadContainerEnds(t *testing.T) {
	b, cfg := sealed(t), config(t)
	start(t, b, cfg, shell(t, 3, "sleep 60"), StartOptions{})
	killKeeper(t, cfg)
	st := readState(cfg)
	unix.Kill(st.Init.PID, unix.SIGKILL)
	await(func() bool { return !st.Init.Alive() })
	if err := Adopt(t.Context(), b, cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	if !await(func() bool { return readState(cfg).Status == Exited }) {
		t.Fatalf("state %+v", readState(cfg))
	}
	if st := readState(cfg); st.ExitCode != 137 {
		t.Errorf("state %+v", st)
	}
}

func TestAdoptLeavesALivingKeeperAlone(t *testing.T) {
	b, cfg := sealed(t), config(t)
	start(t, b, cfg, shell(t, 3, "sleep 60"), StartOptions{})
	before := readState(cfg)
	if err := Adopt(t.Context(), b, cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	if after := readState(cfg); after.Keeper != before.Keeper || !after.Alive() {
		t.Errorf("state %+v, was %+v", after, before)
	}
}

// A client that looks on gets every byte once, whoever keeps the container meanwhile.
func TestAdoptTellsClientsEverything(t *testing.T) {
	for _, logged := range []bool{true, false} {
		b, cfg := sealed(t), config(t)
		if !logged {
			cfg.Log = Log{}
		}
		const lines = 4000
		s := start(t, b, cfg, shell(t, 3, fmt.Sprintf(
			`i=0; while [ $i -lt %d ]; do echo "line $i"; echo "error $i" >&2; i=$((i+1)); [ $((i %% 100)) = 0 ] && sleep 0.005; done; exit 9`, lines)),
			StartOptions{Attach: &AttachOptions{Stdout: true, Stderr: true}})
		stop := make(chan int)
		go func() {
			kills := 0
			for ; kills < 12 && readState(cfg).Status == Running; kills++ {
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
				killKeeper(t, cfg)
				if err := Adopt(t.Context(), b, cfg.RunDir); err != nil {
					t.Error(err)
				}
			}
			stop <- kills
		}()
		var out, errs bytes.Buffer
		e, err := s.Copy(&out, &errs)
		for err != nil {
			at := s.At()
			s.Close()
			if s = reattach(t, cfg, at); s == nil {
				break // its last keeper was killed after the exit
			}
			e, err = s.Copy(&out, &errs)
		}
		kills := <-stop
		if err == nil && e.Code != 9 || readState(cfg).ExitCode != 9 {
			t.Errorf("%+v, %v, %+v", e, err, readState(cfg))
		}
		var want, wantErrs bytes.Buffer
		for i := range lines {
			fmt.Fprintf(&want, "line %d\n", i)
			fmt.Fprintf(&wantErrs, "error %d\n", i)
		}
		if !bytes.Equal(out.Bytes(), want.Bytes()) || !bytes.Equal(errs.Bytes(), wantErrs.Bytes()) {
			t.Errorf("logged %v: %d and %d bytes after %d kills, want %d and %d", logged, out.Len(), errs.Len(), kills, want.Len(), wantErrs.Len())
		}
		t.Logf("logged %v: %d kills", logged, kills)
	}
}

// reattach goes on where a client was, with whichever keeper answers. If none can, as the
// container has ended, it returns nil.
func reattach(t *testing.T, cfg Config, at [2]int64) (s *Stream) {
	t.Helper()
	if !await(func() bool {
		var err error
		s, err = At(cfg.RunDir).Attach(t.Context(), AttachOptions{Stdout: true, Stderr: true, Resume: true, At: at})
		return err == nil || readState(cfg).Status == Exited
	}) {
		t.Error("no keeper answers")
	}
	return s
}
