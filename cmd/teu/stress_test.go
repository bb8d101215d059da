package main

import (
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
)

// A stress is a store that many processes use at once, and a registry with images for it.
type stress struct {
	*site
	images []string     // names in the registry
	wrap   []string     // what every command is run by, with a power cut
	mu     sync.Mutex   // guards pids of site
	turns  atomic.Int64 // that were made
	build  atomic.Int64 // makes each build another
}

// stressImages is how many images there are. Two and two of them have a layer in common.
const stressImages = 4

func newStress(t *testing.T) *stress {
	t.Helper()
	s := &stress{site: newSite(t)}
	bin, err := filepath.Abs("../../bin/teu")
	if err != nil {
		t.Fatal(err)
	}
	registry := (&world{teu: bin, tmp: scratch(t)}).serveRegistry(t)
	for k := range stressImages {
		name := fmt.Sprintf("%s/stress/i%d", registry, k)
		s.write("base/Dockerfile", fmt.Sprintf(`FROM busybox
RUN mkdir /d && for i in $(seq 50); do echo %d-$i >/d/$i; done && head -c 1500000 /dev/urandom >/d/noise
RUN echo %d >/name && head -c 1000000 /dev/urandom >/noise
RUN find /d /name /noise -type f | sort | xargs md5sum >/sums
`, k/2, k))
		s.must("build", "-q", "-t", name, "--push", s.path("base"))
		s.must("rmi", name)
		s.images = append(s.images, name)
	}
	s.must("builder", "prune", "-af")
	return s
}

// teu runs a command and returns what it printed. If it fails without saying one of the words allowed, the test does.
func (s *stress) teu(allowed []string, args ...string) (string, bool) {
	cmd := s.start(args...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return string(out), true
	}
	if !slices.ContainsFunc(allowed, func(words string) bool { return strings.Contains(string(out), words) }) {
		s.t.Errorf("teu %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), false
}

// start prepares a command.
func (s *stress) start(args ...string) *exec.Cmd {
	cmd := s.command(args...)
	if len(s.wrap) > 0 {
		cmd.Args = append(slices.Clone(s.wrap), append([]string{cmd.Path}, args...)...)
		cmd.Path = cmd.Args[0]
	}
	return cmd
}

// begin starts a command that may be killed, and notes its process.
func (s *stress) begin(cmd *exec.Cmd) bool {
	if err := cmd.Start(); err != nil {
		s.t.Error(err)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pids = append(s.pids, cmd.Process.Pid)
	return true
}

// verify runs an image, which reads all of itself that was made here.
func (s *stress) verify(image string, allowed ...string) bool {
	_, ok := s.teu(allowed, "run", "--rm", "--network", "none", "--pull", "never", image, "md5sum", "-s", "-c", "/sums")
	return ok
}

// buildContext makes a directory that builds an image no other build does, out of image k.
func (s *stress) buildContext(who string, k int) string {
	dir := "ctx-" + who
	if err := os.MkdirAll(s.path(dir), 0o755); err != nil {
		s.t.Error(err)
	}
	s.write(dir+"/n", fmt.Sprintln(s.build.Add(1)))
	s.write(dir+"/Dockerfile", "FROM "+s.images[k]+"\nCOPY n /n\nRUN echo made >/d/made\nRUN md5sum /n /d/made >>/sums\n")
	return s.path(dir)
}

// turn does one thing, as a person would, and expects that it works whatever others do.
func (s *stress) turn(who string, random *rand.Rand) {
	defer s.turns.Add(1)
	k := random.IntN(len(s.images))
	image, own := s.images[k], "own-"+who
	gone := []string{"No such image"}
	switch random.IntN(6) {
	case 0:
		s.teu(nil, "pull", "-q", image)
		if _, ok := s.teu(gone, "tag", image, own); !ok {
			return // somebody has removed it meanwhile
		}
		s.verify(own)
		s.teu(nil, "rmi", "-f", own) // others may be running the same image
	case 1:
		s.teu(nil, "build", "-q", "-t", own, s.buildContext(who, k))
		s.verify(own)
		s.teu(nil, "rmi", "-f", own) // others may be running the same image
	case 2:
		s.teu(gone, "run", "--rm", "--network", "none", image, "md5sum", "-s", "-c", "/sums")
	case 3:
		s.teu(gone, "rmi", "-f", image)
	case 4:
		s.teu(nil, "pull", "-q", image)
	default:
		prunes := [][]string{{"image", "prune", "-f"}, {"system", "prune", "-f"}, {"builder", "prune", "-af"}}
		s.teu(nil, prunes[random.IntN(len(prunes))]...)
	}
}

// sound holds that the store is in order and that every image that has a name runs.
func (s *stress) sound() (names []string) {
	s.t.Helper()
	if out, ok := s.teu(nil, "system", "check"); !ok || !strings.Contains(out, "store: no problem found") {
		s.t.Errorf("the store:\n%s", out)
	}
	out, _ := s.teu(nil, "images", "--format", "{{.Repository}}:{{.Tag}}")
	for _, name := range strings.Fields(out) {
		if strings.HasPrefix(name, "busybox:") {
			continue
		}
		names = append(names, name)
		s.verify(name)
	}
	return names
}

// empty removes everything and holds that nothing is left of it.
func (s *stress) empty(t *testing.T) {
	t.Helper()
	out, _ := s.teu(nil, "ps", "-aq")
	if ids := strings.Fields(out); len(ids) > 0 {
		s.teu(nil, append([]string{"rm", "-f"}, ids...)...)
	}
	s.teu(nil, "system", "prune", "-af")
	// What a killed writer left of a document, which begins with a dot, goes an hour later.
	for _, pattern := range []string{"pins/[^.]*", "leases/[^.]*", "content/ingest/w-*", "content/blobs/*/*", "layers/tmp/*", "layers/*/layer.json", "snapshots/*/*.json"} {
		left, err := filepath.Glob(s.path("root/" + pattern))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestStoreUnderStress: whatever processes do to one store, and whatever is done to them and to the disk,
// the store is sound afterwards and its images run.
func TestStoreUnderStress(t *testing.T) {
	s := newStress(t)
	for _, test := range []struct {
		name string
		run  func(*stress, *testing.T)
	}{
		{"together", (*stress).testTogether}, {"killed", (*stress).testKilled},
		{"budget", (*stress).testBudget}, {"full disk", (*stress).testFull}, {"power cut", (*stress).testPowerCut},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			test.run(s, t)
			s.t = nil
		})
	}
	s.t = t
	s.empty(t)
}

// workers runs f for n workers at once, each with random numbers of its own.
func (s *stress) workers(n int, f func(who string, random *rand.Rand)) {
	s.t.Helper()
	seed := uint64(time.Now().UnixNano())
	s.t.Logf("seed %d", seed)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(fmt.Sprint(i), rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	all.Wait()
}

// testTogether has eight processes at work all the time.
func (s *stress) testTogether(t *testing.T) {
	turns, enough := int64(24), time.Time{}
	if os.Getenv("TEU_SOAK") != "" {
		enough = time.Now().Add(5 * time.Minute)
	}
	s.workers(8, func(who string, random *rand.Rand) {
		for !t.Failed() && (s.turns.Load() < turns || time.Now().Before(enough)) {
			s.turn(who, random)
		}
	})
	t.Logf("%d turns", s.turns.Load())
	s.sound()
}

// testKilled kills commands at random moments while others are at work.
func (s *stress) testKilled(t *testing.T) {
	kills := int64(15)
	if os.Getenv("TEU_SOAK") != "" {
		kills = 500
	}
	var killed, finished atomic.Int64
	s.workers(3, func(who string, random *rand.Rand) {
		for !t.Failed() && killed.Load() < kills {
			if s.killOne(who, random) {
				killed.Add(1)
			} else if finished.Add(1) > 20*kills {
				t.Error("commands end before they can be killed")
			}
		}
	})
	t.Logf("%d killed, %d ended before", killed.Load(), finished.Load())
	s.teu(nil, "build", "-q", "-t", "last", s.buildContext("last", 0)) // takes back what killed builds had
	s.sound()
}

// killOne starts a command and kills it, unless it is quicker.
func (s *stress) killOne(who string, random *rand.Rand) (killed bool) {
	k := random.IntN(len(s.images))
	image, own := s.images[k], "killed-"+who
	commands := [][]string{
		{"pull", "-q", image}, {"pull", "-q", image}, {"tag", image, own}, {"rmi", "-f", image},
		{"build", "-q", "-t", own, s.buildContext(who, k)}, {"run", "--rm", "--network", "none", image, "md5sum", "-s", "-c", "/sums"},
		{"system", "prune", "-f"}, {"builder", "prune", "-af"}, {"save", "-o", s.path(own + ".tar"), image},
	}
	cmd := s.start(commands[random.IntN(len(commands))]...)
	if !s.begin(cmd) {
		return false
	}
	timer := time.AfterFunc(time.Duration(random.IntN(250))*time.Millisecond, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	return err != nil && !cmd.ProcessState.Exited()
}

// testBudget pulls at once into a store that may have less than all of it takes. When the last command has
// ended the store is as small as it has to be, and has lost nothing that it needs.
func (s *stress) testBudget(t *testing.T) {
	const limit = 16 << 20 // four images are 12 MB unpacked and 10 MB of blobs
	s.write("budget.json", fmt.Sprintf(`{"storage": {"max": "%d"}}`, limit))
	root, env := s.path("root"), s.env
	defer func() { s.env = env; s.setRoot(root) }()
	s.setRoot(s.path("budget"))
	s.env = append([]string{"TEU_CONFIG=" + s.path("budget.json")}, s.env...)
	var warned atomic.Int64
	s.workers(len(s.images), func(who string, random *rand.Rand) {
		for n := range len(s.images) {
			var k int
			if _, err := fmt.Sscan(who, &k); err != nil {
				t.Error(err)
			}
			out, _ := s.teu(nil, "pull", "-q", s.images[(k+n)%len(s.images)])
			if strings.Contains(out, "WARNING") {
				warned.Add(1) // while others hold what they pull
			}
		}
	})
	out, _ := s.teu(nil, "pull", "-q", s.images[0])
	if size := treeSize(t, s.path("budget/content/blobs")) + treeSize(t, s.path("budget/layers")); size > limit || size < limit/2 || strings.Contains(out, "WARNING") {
		t.Errorf("the store has %d bytes, it may have %d; %s", size, limit, out)
	}
	t.Logf("%d warnings while others were at work", warned.Load())
	if names := s.sound(); len(names) != len(s.images) {
		t.Errorf("there are only %v", names)
	}
	s.teu(nil, "system", "reset", "--force")
}

// treeSize adds up the regular files below dir.
func treeSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			size += fi.Size()
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return size
}

// testFull has commands at work on a store that is too small for them.
func (s *stress) testFull(t *testing.T) {
	root := s.path("root")
	small := s.path("small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("small", small, "tmpfs", 0, "size=14m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		s.setRoot(root)
		err := syscall.Unmount(small, 0)
		for range 1000 { // the keeper of the last container has its log open until it has cleaned up
			if err != syscall.EBUSY {
				break
			}
			time.Sleep(20 * time.Millisecond)
			err = syscall.Unmount(small, 0)
		}
		if err != nil {
			t.Error(err)
		}
	}()
	s.setRoot(filepath.Join(small, "root"))
	full := []string{" is full; "}
	turns := 1
	if os.Getenv("TEU_SOAK") != "" {
		turns = 50
	}
	var refused atomic.Int64
	s.workers(4, func(who string, random *rand.Rand) {
		for turn := 0; turn < turns || turn < 20 && refused.Load() == 0; turn++ { // until it is full
			if _, ok := s.teu(full, "pull", "-q", s.images[random.IntN(len(s.images))]); !ok {
				refused.Add(1)
			}
			if _, ok := s.teu(append(slices.Clone(full), "No space left on device"), "build", "-q", "-t", "own-"+who, s.buildContext(who, 0)); !ok {
				refused.Add(1)
			}
			s.teu(append(full, "No such image"), "rmi", "-f", "own-"+who)
		}
	})
	if refused.Load() == 0 {
		t.Error("the disk was large enough: nothing was tested")
	}
	for _, name := range s.sound() {
		s.teu(nil, "rmi", "-f", name)
	}
	s.teu(nil, "builder", "prune", "-af")
	s.teu(nil, "system", "prune", "-af")
	s.teu(nil, "pull", "-q", s.images[0])
	s.verify(s.images[0])
}

// setRoot has the commands that follow use another store.
func (s *stress) setRoot(root string) {
	s.env = append(slices.DeleteFunc(slices.Clone(s.env), func(e string) bool { return strings.HasPrefix(e, "TEU_ROOT=") }), "TEU_ROOT="+root)
}
