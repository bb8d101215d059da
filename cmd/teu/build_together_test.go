package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestBuildsTogetherAreKilled kills builds that want the same steps, cache mounts and remote caches, while
// others prune. What is not killed succeeds and makes what its Dockerfile says; who holds a cache mount for himself
// is alone in it, also when the one before was killed; and what comes after makes the bytes that an empty store makes.
func TestBuildsTogetherAreKilled(t *testing.T) {
	s := newStress(t)
	host, _, _ := strings.Cut(s.images[0], "/")
	s.must("save", "-o", s.path("busybox.tar"), "busybox")
	kills := int64(20)
	if os.Getenv("TEU_SOAK") != "" {
		kills = 300
	}
	var killed, ended, pruned atomic.Int64
	over := func() bool { return t.Failed() || killed.Load() >= kills || ended.Load() > 40*kills }
	s.workers(5, func(who string, random *rand.Rand) {
		for n := 0; !over(); n++ {
			if who == "4" {
				prunes := [][]string{{"builder", "prune", "-af"}, {"builder", "prune", "-f", "--filter", "type=exec.cachemount"}, {"image", "prune", "-f"}, {"system", "prune", "-f"}, {"rmi", "-f", "together"}}
				s.teu([]string{"No such image"}, prunes[random.IntN(len(prunes))]...)
				pruned.Add(1)
				time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
				continue
			}
			// Whenever two were killed, the next ask for something new.
			if s.killTogether(who, host, int(killed.Load()/2), random) {
				killed.Add(1)
			} else {
				ended.Add(1)
			}
		}
	})
	t.Logf("%d killed, %d ended before, %d prunes", killed.Load(), ended.Load(), pruned.Load())
	if out, ok := s.teu(nil, "system", "check"); !ok || !strings.Contains(out, "store: no problem found") {
		t.Errorf("the store:\n%s", out)
	}
	here, again := s.reproducible(t), s.path("again")
	root := s.path("root")
	s.setRoot(again)
	s.teu(nil, "load", "-i", s.path("busybox.tar"))
	if there := s.reproducible(t); here != there || here == "" {
		t.Errorf("the store makes %s, an empty one %s", here, there)
	}
	s.teu(nil, "system", "reset", "--force")
	s.setRoot(root)
	s.teu(nil, "builder", "prune", "-af")
	if left := s.site.left("run/build/*", "run/netns/*", "run/network/endpoints/[^.]*", "root/snapshots/build-*", "root/build/cache-mounts/*/[0-9]", "root/build/cache-mounts/*/*.new-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	s.empty(t)
}

// together writes a context. There are two variants of it, which have some steps in common, and others of every n.
func (s *stress) together(dir string, n, variant int) {
	if err := os.MkdirAll(s.path(dir), 0o755); err != nil {
		s.t.Error(err)
	}
	s.write(dir+"/n", fmt.Sprintln(n))
	s.write(dir+"/Dockerfile", fmt.Sprintf(`FROM busybox AS alone
COPY alone /bin/alone
COPY n /n
RUN --mount=type=cache,id=l,target=/c,sharing=locked alone locked-%[1]d
RUN --mount=type=cache,id=p,target=/c,sharing=private alone private-%[1]d
FROM busybox AS shared
COPY n /n
RUN --mount=type=cache,id=s,target=/c usleep 30000; cat /n >>/c/log && for i in $(seq 100); do cat /n >/m-$i; done
FROM busybox AS variant
COPY alone /bin/alone
RUN --mount=type=cache,id=l,target=/c,sharing=locked --mount=from=shared,target=/s alone variant-%[1]d-%[2]d && cat /s/m-* | md5sum >/sum
FROM scratch
COPY --from=alone /locked-%[1]d /private-%[1]d /
COPY --from=variant /variant-%[1]d-%[2]d /sum /
`, n, variant))
	// Somebody else in the directory would be seen.
	s.write(dir+"/alone", "#!/bin/sh\nfor i in 1 2 3 4; do echo $1 >/c/owner; usleep 8000; [ \"$(cat /c/owner)\" = $1 ] || { echo with $(cat /c/owner) 1>&2; exit 9; }; done; echo $1 >/$1\n")
	if err := os.Chmod(s.path(dir+"/alone"), 0o755); err != nil {
		s.t.Error(err)
	}
}

// killTogether starts a build and kills it, unless it is quicker.
func (s *stress) killTogether(who, host string, n int, random *rand.Rand) (killed bool) {
	dir, out, variant := "together-"+who, "out-"+who, random.IntN(2)
	s.together(dir, n, variant)
	ref := host + "/together/cache:1"
	flags := [][]string{
		nil, {"-t", "together"},
		{"--cache-to", "type=registry,ref=" + ref + ",mounts=true"},
		{"--cache-from", "type=registry,ref=" + ref + ",mounts=true"},
		{"--cache-from", "type=registry,ref=" + ref, "--cache-to", "type=registry,ref=" + ref},
		{"--cache-to", "type=registry,ref=" + ref + ",mode=min,compression=zstd"},
		{"--cache-from", "type=local,src=" + s.path("cache-"+who), "--cache-to", "type=local,dest=" + s.path("cache-"+who)},
		{"--no-cache-filter", "alone"},
		{"-o", "type=image,name=" + host + "/together/image:" + who + ",push=true"},
	}
	_ = os.RemoveAll(s.path(out))
	_ = os.MkdirAll(s.path("cache-"+who), 0o755)
	args := append([]string{"build", "--progress=plain", "-o", s.path(out)}, flags[random.IntN(len(flags))]...)
	cmd := s.start(append(args, s.path(dir))...)
	said, err := os.Create(s.path("said-" + who))
	if err != nil {
		s.t.Error(err)
		return false
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	if !s.begin(cmd) {
		return false
	}
	signal := []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM}[random.IntN(4)]
	timer := time.AfterFunc(time.Duration(random.IntN(1000))*time.Millisecond, func() { _ = cmd.Process.Signal(signal) })
	err = cmd.Wait()
	if !timer.Stop() && err != nil {
		return true
	}
	if err != nil {
		s.t.Errorf("teu %s: %v\n%s", strings.Join(args, " "), err, s.read("said-"+who))
		return false
	}
	if variantFile := fmt.Sprintf("%s/variant-%d-%d", out, n, variant); s.read(variantFile) != fmt.Sprintf("variant-%d-%d\n", n, variant) {
		s.t.Errorf("%s is %q", variantFile, s.read(variantFile))
	}
	sum, err := exec.Command("sh", "-c", fmt.Sprintf("for i in $(seq 100); do echo %d; done | md5sum", n)).Output()
	if got := s.read(out + "/sum"); err != nil || got != string(sum) {
		s.t.Errorf("the sum of %d is %q, %v", n, got, err)
	}
	return false
}

// reproducible builds both variants and returns their IDs.
func (s *stress) reproducible(t *testing.T) (ids string) {
	t.Helper()
	for variant := range 2 {
		s.together("reproducible", 0, variant)
		file := filepath.Join(s.dir, "id")
		s.teu(nil, "build", "-q", "--reproducible", "--iidfile", file, s.path("reproducible"))
		ids += s.read("id") + " "
	}
	return ids
}
