package engine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// buildClient builds a program or the tests of a package of test/clients; the first time takes long.
func (w *world) buildClient(verb, pkg string, flags ...string) (bin string) {
	w.t.Helper()
	bin = filepath.Join(w.dir, filepath.Base(pkg)+"-client")
	cmd := exec.Command("go", append(append([]string{verb}, flags...), "-o", bin, pkg)...)
	cmd.Dir, cmd.Env = "../../test/clients", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	return bin
}

// within runs a command in the network namespace of the server, where its ports are.
func (w *world) within(command ...string) string {
	w.t.Helper()
	return w.run("nsenter", append([]string{"--net=" + w.dir + "/netns"}, command...)...)
}

// TestClients drives the server with clients that are not docker's command.
func TestClients(t *testing.T) {
	w := newWorld(t)
	for _, part := range []struct {
		name string
		test func(*testing.T, *world)
	}{{"go", testGoClient}, {"dockerode", testDockerode}, {"context over ssh", testContextOverSSH}, {"testcontainers", testTestcontainers}} {
		t.Run(part.name, func(t *testing.T) {
			own, after := *w, *w
			own.t, after.t = t, t
			part.test(t, &own)
			if left := after.docker("ps", "-aq"); left != "" {
				t.Errorf("containers are left: %s", left)
			}
		})
	}
}

// testTestcontainers runs the tests of a user of testcontainers-go, and lets its reaper clean
// up behind one who leaves everything.
func testTestcontainers(t *testing.T, w *world) {
	reaper := w.buildClient("build", "./reaper", "-ldflags=-s -w")
	w.run("sh", "-c", `mkdir "$HOME/ryuk" && cp "$0" "$HOME/ryuk/ryuk" && tar -cC "$HOME/ryuk" ryuk | docker import -c 'ENTRYPOINT ["/ryuk"]' - testcontainers/ryuk:0.14.0`, reaper)
	user := w.buildClient("test", "./testcontainers", "-c")
	t.Log(w.within(user, "-test.v", "-test.skip", "TestLeave"))
	// This one's reaper waits ten seconds for more tests of the same parent, as it should.
	w.docker("rm", "-f", w.docker("ps", "-q", "--filter", "label=org.testcontainers.ryuk=true"))
	w.env = append(slices.Clone(w.env), "RYUK_RECONNECTION_TIMEOUT=300ms")
	w.within("sh", "-c", `"$0" -test.v -test.run TestLeave; exit $?`, user)
	w.soon("the reaper has removed what was left", func() bool {
		networks := w.docker("network", "ls", "-q", "--filter", "type=custom")
		return w.docker("ps", "-aq")+networks+w.docker("volume", "ls", "-q") == ""
	})
	if images := w.docker("images", "--format", "{{.Repository}}"); len(strings.Fields(images)) != 2 {
		t.Errorf("images that were built are left: %s", images)
	}
}

// testGoClient drives the server with docker's client for Go.
func testGoClient(t *testing.T, w *world) {
	t.Log(w.within(w.buildClient("test", "./goclient", "-c"), "-test.v"))
}

// testDockerode drives the server with npm's client.
func testDockerode(t *testing.T, w *world) {
	modules, err := filepath.Abs("../../.cache/dockerode/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs("../../test/clients/dockerode/client.js")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(w.run("node", "--version"), w.within("env", "NODE_PATH="+modules, "DOCKER_SOCKET="+w.socket(), "node", script))
}
