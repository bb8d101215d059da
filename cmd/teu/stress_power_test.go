package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A powerDisk is an ext4 file system in a file, which can lose its power.
type powerDisk struct {
	t           *testing.T
	image, path string
	boots       int
}

func newPowerDisk(t *testing.T, dir string) *powerDisk {
	t.Helper()
	d := &powerDisk{t: t, image: filepath.Join(dir, "image-0"), path: filepath.Join(dir, "disk")}
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(mustCreate(t, d.image), 600<<20); err != nil {
		t.Fatal(err)
	}
	d.command("mkfs.ext4", "-q", "-F", d.image)
	d.mount()
	return d
}

func (d *powerDisk) command(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// mount replays the journal, as after a boot. Nothing is written before somebody asks for it: commit=300.
func (d *powerDisk) mount() {
	d.command("mount", "-o", "loop,commit=300", d.image, d.path)
	d.command("mount", "--make-private", d.path)
}

// cut is what xfstests calls godown: EXT4_IOC_SHUTDOWN with NOLOGFLUSH. What is not in the journal or on
// the disk at this moment never will be.
func (d *powerDisk) cut() {
	f, err := os.Open(d.path)
	if err == nil {
		const shutdown, noLogFlush = 0x8004587d, 2
		err = errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush), f.Close())
	}
	if err != nil {
		d.t.Errorf("cutting the power: %v", err)
	}
}

// boot mounts a copy of what the disk has: the disk itself may still be mounted somewhere.
func (d *powerDisk) boot() {
	d.t.Helper()
	d.command("umount", d.path)
	d.boots++
	next := filepath.Join(filepath.Dir(d.image), fmt.Sprintf("image-%d", d.boots))
	d.command("cp", "--sparse=always", d.image, next)
	if err := os.Remove(d.image); err != nil {
		d.t.Fatal(err)
	}
	d.image = next
	d.mount()
}

// testPowerCut cuts the power of the disk under load and boots, again and again. What was pulled or tagged
// is there again and runs; what was built may be lost, but is not there by halves.
func (s *stress) testPowerCut(t *testing.T) {
	cuts := 3
	if os.Getenv("TEU_SOAK") != "" {
		cuts = 60
	}
	root := s.path("root")
	disk := newPowerDisk(t, s.path("power"))
	defer func() {
		s.setRoot(root)
		s.wrap = nil
		disk.command("umount", disk.path)
	}()
	s.setRoot(filepath.Join(disk.path, "root"))
	script := `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`
	s.wrap = []string{"/usr/bin/unshare", "-m", "--propagation", "private", "sh", "-c", script, s.path("boot_id")}
	for cut := range cuts {
		s.newBoot(cut)
		acknowledged := s.workUntilCut(disk)
		s.endProcesses()
		disk.boot()
		s.newBoot(cut + 1000)
		names := s.sound()
		for _, name := range acknowledged {
			if !slices.Contains(names, name) {
				t.Errorf("after cut %d the image %s is lost", cut, name)
			}
		}
		t.Logf("cut %d: %d acknowledged, %d there", cut, len(acknowledged), len(names))
		if cut%2 == 1 {
			for _, name := range names {
				s.teu(nil, "rmi", "-f", name)
			}
			s.teu(nil, "system", "prune", "-af")
		}
		if t.Failed() {
			return
		}
	}
}

// newBoot gives the commands that follow the identity of another boot.
func (s *stress) newBoot(n int) {
	s.t.Helper()
	if err := os.WriteFile(s.path("boot_id"), fmt.Appendf(nil, "00000000-0000-4000-8000-%012d\n", n), 0o444); err != nil {
		s.t.Fatal(err)
	}
	if err := os.RemoveAll(s.path("run")); err != nil {
		s.t.Fatal(err)
	}
}

// workUntilCut has commands at work when the power fails, and returns the names that they promised.
func (s *stress) workUntilCut(disk *powerDisk) (names []string) {
	var (
		mu  sync.Mutex
		off atomic.Bool
	)
	timer := time.AfterFunc(time.Duration(300+rand.IntN(2500))*time.Millisecond, func() { off.Store(true); disk.cut() })
	defer timer.Stop()
	tried := func(args ...string) bool {
		cmd := s.start(args...)
		out, err := cmd.CombinedOutput()
		if err != nil && !off.Load() && !bytes.Contains(out, []byte("No such image")) {
			s.t.Errorf("before the cut: teu %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return err == nil
	}
	s.workers(4, func(who string, random *rand.Rand) {
		for n := 0; !off.Load(); n++ {
			k := random.IntN(len(s.images))
			own := fmt.Sprintf("own-%s:%d-%d", who, disk.boots, n)
			promised := tried("pull", "-q", s.images[k]) && tried("tag", s.images[k], own)
			tried("build", "-q", "-t", "built-"+own, s.buildContext(who, k))
			if n%3 == 2 {
				tried("builder", "prune", "-af")
			}
			if promised {
				mu.Lock()
				names = append(names, own)
				mu.Unlock()
			}
		}
	})
	return names
}

// endProcesses ends what the commands left running, as the loss of power does.
func (s *stress) endProcesses() {
	s.t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range processes {
		var pid int
		if environ, err := os.ReadFile(p); err != nil || !bytes.Contains(environ, []byte("STORE="+s.dir)) {
			continue
		}
		if _, err := fmt.Sscanf(p, "/proc/%d/environ", &pid); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
