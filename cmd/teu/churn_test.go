package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestChurn: four processes at a time make, use, change and remove containers, networks, volumes and images that all have
// the same few names. Each command works, or fails with words for what another one did to it; some are killed. Nothing is
// left of all that.
func TestChurn(t *testing.T) {
	s := &stress{site: newSite(t)}
	s.enterNetwork()
	s.write("ctx/Dockerfile", "FROM busybox\nARG n\nRUN --network=none echo $n >/made\nVOLUME /data\n")
	for _, args := range [][]string{{"tag", "busybox", "i0"}, {"tag", "busybox", "i1"}} {
		s.must(args...)
	}
	until := time.Now().Add(3 * time.Second)
	if os.Getenv("TEU_SOAK") != "" {
		until = time.Now().Add(5 * time.Minute)
	}
	var killed atomic.Int64
	s.workers(4, func(who string, random *rand.Rand) {
		for time.Now().Before(until) {
			if s.churn(random) {
				killed.Add(1)
			}
			s.turns.Add(1)
		}
	})
	t.Logf("%d commands, %d killed", s.turns.Load(), killed.Load())
	s.gone(t)
}

// enterNetwork has all commands run in a network namespace of the test's.
func (s *stress) enterNetwork() {
	holder := exec.Command("unshare", "--net", "sleep", "100000")
	if err := holder.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
	})
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		s.t.Fatal(err)
	}
	s.wrap = []string{nsenter, fmt.Sprintf("--net=/proc/%d/ns/net", holder.Process.Pid), "--"}
	for range 100 { // until it is in its namespace
		ours, _ := os.Readlink("/proc/self/ns/net")
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid))
		if err == nil && its != ours {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatal("unshare does not leave our network")
}

// meanwhile are the words for what others have done to the things of a command.
var meanwhile = []string{
	"No such container", "no such object", "is already in use by container", "is not running", "is not paused", "is already paused", "paused",
	"is restarting", "is already running", "marked for removal", "started meanwhile", "stop the container before removing",
	"non running container", "to a stopped container", "has ended",
	"network n0 not found", "network n1 not found", "already exists", "has active endpoints", "is not connected to",
	"no such volume", "volume is in use", "No such image", "unable to remove repository reference", "unable to delete",
	"same name as its current name", "cannot join own network namespace",
	"does not exist locally", "networks in private (none) mode", "cannot be connected to any other network",
}

// churn gives a random command and says whether it was killed.
func (s *stress) churn(random *rand.Rand) (killed bool) {
	pick := func(kind string, n int) string { return fmt.Sprint(kind, random.IntN(n)) }
	c, other, net, vol, img := pick("c", 4), pick("c", 4), pick("n", 2), pick("v", 2), pick("i", 3)
	networks := []string{"bridge", "none", net, net, "container:" + other}
	mode := networks[random.IntN(len(networks))]
	long := []string{"sh", "-c", "trap exit TERM; sleep 1000 & wait"}
	flags := [][]string{{"-v", vol + ":/etc"}, {"-v", "/anonymous"}, {"--volumes-from", other}, {"--init"}, {"--restart", "on-failure:2"}, {}}
	extra := flags[random.IntN(len(flags))]
	run := slices.Concat([]string{"run", "-d", "--pull", "never", "--name", c, "--network", mode}, extra, []string{img})
	commands := [][]string{
		append(run, long...), append(run, long...), append(run, "true"),
		slices.Concat([]string{"run", "--rm", "--pull", "never", "--name", c, "--network", mode}, []string{"-v", vol + ":/etc", "-v", "/x"}, []string{img, "true"}),
		slices.Concat([]string{"run", "-d", "--rm", "--pull", "never", "--name", c, "--network", mode}, []string{"-v", "/x"}, []string{img}, long),
		slices.Concat([]string{"create", "--pull", "never", "--name", c, "--network", mode}, extra, []string{img, "sleep", "1000"}),
		{"start", c}, {"start", c}, {"stop", "-t", "1", c}, {"restart", "-t", "0", c}, {"restart", "-t", "0", c}, {"kill", c}, {"rm", "-f", c}, {"rm", "-fv", c}, {"rm", c},
		{"rename", c, other}, {"update", "--memory", "64m", "--memory-swap", "64m", c}, {"commit", c, img}, {"commit", c},
		{"cp", s.path("ctx"), c + ":/tmp/"}, {"cp", c + ":/etc", "-"}, {"export", "-o", s.path("out-" + c + ".tar"), c}, {"diff", c},
		{"exec", c, "true"}, {"logs", c}, {"inspect", c}, {"ps", "-a", "-s"}, {"pause", c}, {"unpause", c}, {"top", c}, {"port", c}, {"stats", "--no-stream", c},
		{"network", "create", net}, {"network", "create", net}, {"network", "rm", net}, {"network", "prune", "-f"}, {"network", "connect", net, c}, {"network", "disconnect", net, c},
		{"network", "inspect", net}, {"network", "ls"},
		{"volume", "create", vol}, {"volume", "rm", vol}, {"volume", "prune", "-f"}, {"volume", "prune", "-af"}, {"volume", "ls"},
		{"tag", "busybox", img}, {"tag", img, pick("i", 3)}, {"rmi", img}, {"rmi", "-f", img}, {"image", "prune", "-f"}, {"images"}, {"history", img},
		{"save", "-o", s.path("out-" + img + ".tar"), img}, {"build", "-q", "--build-arg", "n=" + pick("", 3), "-t", img, s.path("ctx")},
		{"builder", "prune", "-af"}, {"system", "prune", "-f"}, {"container", "prune", "-f"}, {"system", "df"},
	}
	args := commands[random.IntN(len(commands))]
	cmd := s.start(args...)
	var out strings.Builder
	if args[len(args)-1] != "-" {
		cmd.Stdout = &out
	}
	cmd.Stderr = &out
	cmd.WaitDelay = 10 * time.Second
	began := time.Now()
	if !s.begin(cmd) {
		return false
	}
	if random.IntN(8) == 0 {
		defer time.AfterFunc(time.Duration(random.IntN(60))*time.Millisecond, func() { cmd.Process.Kill() }).Stop()
	}
	err := cmd.Wait()
	if took := time.Since(began); took > 20*time.Second {
		s.t.Errorf("teu %s took %v", strings.Join(args, " "), took)
	}
	if cmd.ProcessState == nil || !cmd.ProcessState.Exited() {
		return true
	}
	known := slices.ContainsFunc(meanwhile, func(words string) bool { return strings.Contains(out.String(), words) })
	if code := cmd.ProcessState.ExitCode(); err != nil && !known && !(code > 128 && out.Len() == 0) {
		s.t.Errorf("teu %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return false
}

// gone removes everything and holds that nothing is left of it.
func (s *stress) gone(t *testing.T) {
	if out, ok := s.teu(nil, "system", "check"); !ok || !strings.Contains(out, "store: no problem found") {
		t.Errorf("the store:\n%s", out)
	}
	if out, _ := s.teu(nil, "ps", "-aq"); out != "" {
		s.teu([]string{"No such container"}, append([]string{"rm", "-fv"}, strings.Fields(out)...)...)
	}
	for _, args := range [][]string{{"container", "prune", "-f"}, {"network", "prune", "-f"}, {"volume", "prune", "-af"}} {
		s.teu(nil, args...)
	}
	s.empty(t)
	left := s.left()
	for _, pattern := range []string{"run/netns/*", "run/network/endpoints/*", "run/network/shares/*", "run/network/zones/*", "run/network/dns/*", "run/execs/*", "root/renaming/*",
		"root/containers/.*", "root/volumes/.*"} {
		found, _ := filepath.Glob(s.path(pattern))
		left = append(left, found...)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	s.teu(nil, "system", "reset", "--force")
	for _, see := range [][]string{{"ip", "-o", "link", "show", "type", "bridge"}, {"ip", "-o", "link", "show", "type", "veth"}, {"nft", "list", "tables"}} {
		var out []byte
		for range 200 { // the kernel takes its time with pairs
			out, _ = exec.Command(s.wrap[0], append(slices.Clone(s.wrap[1:]), see...)...).CombinedOutput()
			if len(out) == 0 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if len(out) > 0 {
			t.Errorf("%s: %s", strings.Join(see, " "), out)
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), s.dir) {
		t.Errorf("mounts are left below %s: %v", s.dir, err)
	}
}
