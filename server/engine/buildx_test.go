package engine_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// newBuildxWorld is a world with docker's plugin buildx, which test/setup.sh has built.
func newBuildxWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	plugin, err := filepath.Abs("../../.cache/peers/buildx")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(plugin); err != nil {
		t.Fatalf("%v: `make setup` builds it", err)
	}
	if err := os.MkdirAll(w.dir+"/docker/cli-plugins", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(plugin, w.dir+"/docker/cli-plugins/docker-buildx"); err != nil {
		t.Fatal(err)
	}
	return w
}

// write puts files below the directory of w.
func (w *world) write(files map[string]string) {
	w.t.Helper()
	for name, text := range files {
		path := filepath.Join(w.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
}

// buildx runs `docker buildx` and returns what it printed, the progress too.
func (w *world) buildx(args ...string) string {
	w.t.Helper()
	stdout, stderr, code := w.try("docker", append([]string{"buildx"}, args...)...)
	if code != 0 {
		w.t.Fatalf("docker buildx %q: exit code %d\n%s%s", args, code, stdout, stderr)
	}
	return stdout + stderr
}

// buildxFails runs `docker buildx`, which must fail, and returns all that it said.
func (w *world) buildxFails(args ...string) string {
	w.t.Helper()
	stdout, stderr, code := w.try("docker", append([]string{"buildx"}, args...)...)
	if code != 1 {
		w.t.Errorf("docker buildx %q: exit code %d, want 1\n%s%s", args, code, stdout, stderr)
	}
	return stdout + stderr
}

// says holds that a text has all of these in it.
func says(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
}

// TestBuildx builds by docker's plugin.
func TestBuildx(t *testing.T) {
	w := newBuildxWorld(t)
	says(t, w.buildx("inspect"), "Driver: docker", "Status:           running", "BuildKit version: v0.", "Platforms:        linux/")
	for name, part := range map[string]func(*testing.T, *world){
		"build": testBuildxBuild, "session": testBuildxSession, "outputs": testBuildxOutputs, "contexts": testBuildxContexts,
		"failures": testBuildxFailures, "bake": testBuildxBake, "cancel": testBuildxCancel, "at once": testBuildxAtOnce,
		"registry": testBuildxRegistry, "docker 20.10": testBuildSession, "remote": testBuildxRemote,
	} {
		t.Run(name, func(t *testing.T) { w.t = t; part(t, w) })
		w.t = t
	}
	if left, err := filepath.Glob(w.dir + "/root/build/tmp/*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func testBuildxBuild(t *testing.T, w *world) {
	w.write(map[string]string{
		"app/Dockerfile":    "FROM busybox AS made\nCOPY src /src\nRUN cat /src/a /src/b >/made; echo from the step\nFROM busybox\nCOPY --from=made /made /made\nLABEL who=buildx\n",
		"app/.dockerignore": "hidden\n", "app/src/a": "a\n", "app/src/b": "b\n", "app/hidden": "x",
		"app/src/large": strings.Repeat("large", 100_000),
	})
	first := w.buildx("build", "--progress", "plain", "-t", "app:1", "app")
	ran := regexp.MustCompile(`(?m)^#\d+ [\d.]+ from the step$`)
	if !ran.MatchString(first) {
		t.Errorf("the first build does not show what a step printed:\n%s", first)
	}
	says(t, first, "naming to docker.io/library/app:1 done", "[internal] load build context", " transferring context: ", "DONE")
	if got := w.docker("run", "--rm", "app:1", "cat", "/made"); got != "a\nb" {
		t.Errorf("the image has %q", got)
	}
	if again := w.buildx("build", "--progress", "plain", "-t", "app:1", "app"); !strings.Contains(again, " CACHED") || ran.MatchString(again) {
		t.Errorf("the second build ran a step:\n%s", again)
	} else if !regexp.MustCompile(`transferring context: \d+B `).MatchString(again) {
		t.Errorf("what has not changed travelled again:\n%s", again)
	}
	w.write(map[string]string{"app/src/b": "c\n"})
	id := strings.TrimSpace(w.buildx("build", "-q", "-t", "app:1", "app"))
	if got := w.docker("run", "--rm", id, "cat", "/made"); got != "a\nc" {
		t.Errorf("after a change the image has %q", got)
	}
	w.want("^"+id+"$", "inspect", "--format", "{{.Id}}", "app:1")
	// A file that is changed and has the size and the time it had, which somebody set.
	for _, text := range []string{"d\n", "e\n"} {
		w.write(map[string]string{"app/src/b": text})
		when := time.Unix(1e9, 0)
		if err := os.Chtimes(w.dir+"/app/src/b", when, when); err != nil {
			t.Fatal(err)
		}
		w.buildx("build", "-t", "app:1", "app")
		if got := w.docker("run", "--rm", "app:1", "cat", "/made"); got != "a\n"+strings.TrimSpace(text) {
			t.Errorf("with %q the image has %q", text, got)
		}
	}
	says(t, w.buildx("du"), "Total:")
	if got := w.run("sh", "-c", "DOCKER_BUILDKIT=1 docker build -q app"); !strings.HasPrefix(got, "sha256:") {
		t.Errorf("docker build: %q", got)
	}
}

func testBuildxSession(t *testing.T, w *world) {
	w.write(map[string]string{"session/token": "key-123", "session/Dockerfile": `FROM busybox
RUN --mount=type=secret,id=token [ "$(cat /run/secrets/token)" = key-123 ]
RUN --mount=type=secret,id=other,env=OTHER [ "$OTHER" = from-env ]
RUN --mount=type=secret,id=none [ ! -e /run/secrets/none ]
RUN --mount=type=ssh [ -S "$SSH_AUTH_SOCK" ]
`})
	agent, err := net.Listen("unix", w.dir+"/session/agent")
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	w.run("sh", "-c", "OTHER=from-env docker buildx build --secret id=token,src=session/token --secret id=other,env=OTHER --ssh default=session/agent session")
	says(t, w.buildxFails("build", "--no-cache", "session"), `process "/bin/sh -c [ \"$(cat /run/secrets/token)\" = key-123 ]"`)
}

func testBuildxOutputs(t *testing.T, w *world) {
	w.write(map[string]string{"out/Dockerfile": "FROM scratch\nCOPY f /dir/f\n", "out/f": "file\n"})
	w.buildx("build", "-o", "made", "out")
	if got, err := os.ReadFile(w.dir + "/made/dir/f"); err != nil || string(got) != "file\n" {
		t.Errorf("-o DIRECTORY: %q, %v", got, err)
	}
	w.buildx("build", "-o", "type=tar,dest=made.tar", "out")
	if got := w.run("tar", "tf", "made.tar"); got != "dir/\ndir/f" {
		t.Errorf("type=tar: %q", got)
	}
	for _, kind := range []string{"oci", "docker"} {
		w.buildx("build", "-t", "made:"+kind, "-o", "type="+kind+",dest=made."+kind, "out")
		says(t, w.docker("load", "-i", "made."+kind), "made:"+kind)
	}
	w.buildx("build", "-t", "made:dir", "-o", "type=oci,tar=false,dest=made.dir", "out")
	w.run("sh", "-c", "tar -c -C made.dir . >made.dir.tar && docker load -i made.dir.tar && docker run --rm --entrypoint /nosuch made:dir; [ $? = 127 ]")
	w.buildx("build", "-t", "made:iid", "--iidfile", "iid", "--metadata-file", "meta", "out")
	iid, err := os.ReadFile(w.dir + "/iid")
	if err != nil {
		t.Fatal(err)
	}
	w.want("^"+string(iid)+"$", "inspect", "--format", "{{.Id}}", "made:iid")
	meta, err := os.ReadFile(w.dir + "/meta")
	if err != nil {
		t.Fatal(err)
	}
	says(t, string(meta), `"containerimage.digest": "`+string(iid), `"image.name": "made:iid"`, `"containerimage.descriptor"`)
	w.buildx("build", "--platform", "linux/amd64,linux/arm64", "-t", "made:both", "out")
	says(t, w.buildxFails("build", "--cache-to", "type=azblob,name=x,account_url=https://127.0.0.1:1,secret_access_key=x", "out"), "exporting a cache of type=azblob")
}

// testBuildxProvenance: what buildx adds by itself is stated of images that are pushed.
func testBuildxProvenance(t *testing.T, w *world, repo string) {
	w.write(map[string]string{"said/Dockerfile": "FROM scratch\nARG SAID\nCOPY f /dir/f\n", "said/f": "file\n"})
	provenance := func(tag string) string {
		return w.run("nsenter", "--net="+w.dir+"/netns", "docker", "buildx", "imagetools", "inspect", repo+":"+tag, "--format", "{{json .Provenance}}")
	}
	w.buildx("build", "--push", "-t", repo+":unasked", "--build-arg", "SAID=nothing", "said")
	if got := provenance("unasked"); !strings.Contains(got, `"frontend": "dockerfile.v0"`) || strings.Contains(got, "SAID") || strings.Contains(got, "llbDefinition") {
		t.Errorf("what buildx adds by itself: %s", got)
	}
	w.buildx("build", "--push", "--provenance=mode=max", "-t", repo+":max", "--build-arg", "SAID=all", "said")
	says(t, provenance("max"), `"build-arg:SAID": "all"`, "llbDefinition", `"resolvedDependencies"`)
	w.buildx("build", "--push", "--provenance=false", "-t", repo+":none", "said")
	if got := provenance("none"); strings.Contains(got, "SLSA") {
		t.Errorf("--provenance=false: %s", got)
	}
	w.buildx("build", "--attest", "type=provenance,version=v0.2", "-o", "made.stated", "said")
	says(t, w.run("cat", "made.stated/provenance.json"), `"predicateType": "https://slsa.dev/provenance/v0.2"`, `"name": "dir/f"`)
	w.buildx("build", "-t", "stays", "said")
	if got := w.run("docker", "save", "stays"); strings.Contains(got, "in-toto") {
		t.Error("an image that stays has statements")
	}
	w.write(map[string]string{"scan/Dockerfile": "FROM busybox\nCOPY scan.sh /\nCMD [\"sh\", \"/scan.sh\"]\n",
		"scan/scan.sh": `echo "{\"predicateType\":\"https://spdx.dev/Document\",\"predicate\":{\"SPDXID\":\"$(ls $BUILDKIT_SCAN_SOURCE)\"}}" >$BUILDKIT_SCAN_DESTINATION/sbom.json`})
	w.buildx("build", "-t", "scan", "scan")
	w.buildx("build", "--push", "--sbom=generator=scan", "-t", repo+":sbom", "said")
	if got := w.run("nsenter", "--net="+w.dir+"/netns", "docker", "buildx", "imagetools", "inspect", repo+":sbom", "--format", "{{json .SBOM}}"); !strings.Contains(got, `"SPDXID": "dir"`) {
		t.Errorf("the SBOM is %s", got)
	}
}

func testBuildxContexts(t *testing.T, w *world) {
	w.write(map[string]string{
		"ctx/Dockerfile": "FROM busybox\nCOPY --from=other o /o\nCOPY --from=img /etc/passwd /p\nRUN cat /o\n",
		"other/o":        "of the other\n", "ctx/sub/f": "f\n",
	})
	says(t, w.buildx("build", "--progress", "plain", "--build-context", "other=other", "--build-context", "img=docker-image://busybox", "ctx"), "of the other")
	if _, stderr, code := w.tryIn("FROM busybox\nRUN echo from stdin\n", "docker", "buildx", "build", "--progress", "plain", "-"); code != 0 || !strings.Contains(stderr, "from stdin") {
		t.Errorf("a Dockerfile at stdin: %d, %s", code, stderr)
	}
	if _, stderr, code := w.tryIn("FROM busybox\nCOPY sub/f /\n", "docker", "buildx", "build", "-f", "-", "ctx"); code != 0 {
		t.Errorf("a Dockerfile at stdin with a context: %s", stderr)
	}
	w.run("sh", "-c", `mkdir tarred; printf 'FROM busybox\nCOPY x /x\nRUN cat /x\n' >tarred/Dockerfile; echo in the archive >tarred/x
tar -cz -C tarred . | docker buildx build --progress plain -t tarred - && [ "$(docker run --rm tarred cat /x)" = "in the archive" ]`)
	w.run("sh", "-c", `git init -q repo && cp -r ctx/sub repo/ && printf 'FROM busybox\nCOPY sub/f /f\n' >repo/Dockerfile && cd repo && git add . &&
git -c user.name=a -c user.email=a@b commit -qm 1 && git clone -q --bare . ../repo.git && cd ../repo.git && git update-server-info`)
	w.write(map[string]string{"lay/Base": "FROM busybox\nRUN echo from the layout >/l\n", "lay/Dockerfile": "FROM lay\nRUN cat /l\n"})
	w.buildx("build", "-f", "lay/Base", "-o", "type=oci,dest=lay.tar", "lay")
	w.run("sh", "-c", "mkdir layout && tar -x -C layout -f lay.tar")
	says(t, w.buildx("build", "--progress", "plain", "--build-context", "lay=oci-layout://layout", "lay"), " from the layout\n")
	web := exec.Command("nsenter", "--net="+w.dir+"/netns", "busybox", "httpd", "-f", "-p", "127.0.0.1:8123", "-h", w.dir)
	web.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startApart(web); err != nil {
		t.Fatal(err)
	}
	defer func() { web.Process.Kill(); web.Wait() }()
	w.soon("the web server answers", func() bool {
		_, _, code := w.try("nsenter", "--net="+w.dir+"/netns", "busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8123/repo.git/HEAD")
		return code == 0
	})
	w.buildx("build", "-t", "cloned", "http://127.0.0.1:8123/repo.git")
	w.want("^f$", "run", "--rm", "cloned", "cat", "/f")
	// What the frontend takes beside.
	w.write(map[string]string{"ctx/Net": "FROM busybox\nARG WHO\nRUN echo \"$WHO\" \"$(ulimit -n)\"; cat /etc/hosts; ip link\n"})
	out := w.buildx("build", "--progress", "plain", "--no-cache", "-f", "ctx/Net", "--build-arg", "WHO=me", "--network", "none", "--add-host", "far:1.2.3.4",
		"--add-host", "near:host-gateway", "--ulimit", "nofile=100:200", "ctx")
	says(t, out, " me 100\n", "1.2.3.4\tfar", "\tnear\n")
	if strings.Contains(out, "eth0") {
		t.Errorf("with --network none there is a network:\n%s", out)
	}
}

const badRun = "FROM busybox\n# a comment\nRUN echo the reason; exit 3\nRUN true\n"

func testBuildxFailures(t *testing.T, w *world) {
	w.write(map[string]string{
		"bad/Run":  badRun,
		"bad/Word": "FROM busybox\nRUNN x\n",
		"bad/Copy": "FROM busybox\nCOPY nosuch /\n",
		"bad/Base": "FROM 127.0.0.1:1/nosuch\n",
		"bad/Lint": "FROM busybox as x\nENV a b\n",
	})
	out := w.buildxFails("build", "--progress", "plain", "-f", "bad/Run", "bad")
	says(t, out, "Run:3\n", "   3 | >>> RUN echo the reason; exit 3\n", " the reason\n",
		`ERROR: failed to build: failed to solve: process "/bin/sh -c echo the reason; exit 3" did not complete successfully: exit code: 3`)
	out = w.buildxFails("build", "-f", "bad/Word", "bad")
	says(t, out, "   2 | >>> RUNN x\n", "unknown instruction: RUNN (did you mean RUN?)")
	if strings.Count(out, ">>>") != 1 {
		t.Errorf("the place is shown more than once:\n%s", out)
	}
	says(t, w.buildxFails("build", "-f", "bad/Copy", "bad"), "   2 | >>> COPY nosuch /\n", `"/nosuch": not found`)
	says(t, w.buildxFails("build", "-f", "bad/Base", "bad"), "   1 | >>> FROM 127.0.0.1:1/nosuch\n", "connection refused")
	says(t, w.buildx("build", "--progress", "plain", "-f", "bad/Lint", "bad"), "2 warnings found", "- FromAsCasing: ", "(line 1)")
	says(t, w.buildxFails("build", "--check", "-f", "bad/Lint", "bad"), "Check complete, 2 warnings have been found!", "   2 | >>> ENV a b\n")
	says(t, w.buildx("build", "--call", "targets", "-f", "bad/Lint", "bad"), "TARGET")
	says(t, w.buildxFails("build", "--build-arg", "BUILDKIT_SYNTAX=other/frontend", "-f", "bad/Lint", "bad"), "syntax=other/frontend is a frontend that is not built in")
	says(t, w.buildx("history", "ls"), "Error", "Completed")
	says(t, w.buildx("history", "inspect"), "syntax=other/frontend is a frontend that is not built in")
	says(t, w.buildxFails("build", "--target", "none", "-f", "bad/Run", "bad"), `target stage "none" could not be found`)
}

// testBuildSession builds with Debian's docker, which has a client of BuildKit's sessions but not of its gRPC API.
func testBuildSession(t *testing.T, w *world) {
	const docker = "/usr/bin/docker"
	if out := w.run(docker, "--version"); !strings.Contains(out, " 20.10.") {
		t.Fatalf("%s is %s", docker, out)
	}
	w.write(map[string]string{"old/Dockerfile": "FROM busybox AS a\nRUN --mount=type=secret,id=s cat /run/secrets/s\nCOPY f /f\nFROM scratch\nCOPY f /f\n", "old/f": "f\n", "old/s": "hush\n", "bad/Run": badRun})
	_, stderr, code := w.try("env", "DOCKER_BUILDKIT=1", docker, "build", "--progress", "plain", "--secret", "id=s,src=old/s", "--target", "a", "-t", "old", "old")
	if code != 0 {
		t.Fatal(stderr)
	}
	says(t, stderr, " hush\n", "naming to docker.io/library/old")
	w.want("^f$", "run", "--rm", "old", "cat", "/f")
	w.run("sh", "-c", "unset DOCKER_BUILDKIT; "+docker+" build -o old/out old && cmp old/f old/out/f")
	w.run("sh", "-c", "unset DOCKER_BUILDKIT; tar -c -C old . | "+docker+" build -q --target a - >old/id && [ $("+docker+" run --rm $(cat old/id) cat /f) = f ]")
	_, stderr, code = w.try("env", "DOCKER_BUILDKIT=1", docker, "build", "--progress", "plain", "-f", "bad/Run", "bad")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	says(t, stderr, " the reason\n", "did not complete successfully: exit code: 3")
}

func testBuildxBake(t *testing.T, w *world) {
	w.write(map[string]string{
		"bake/f": "f\n",
		"bake/docker-bake.hcl": `
group "default" { targets = ["top", "side"] }
target "base" {
  context = "bake"
  dockerfile-inline = "FROM busybox\nCOPY f /base\n"
}
target "top" {
  contexts = { under = "target:base" }
  dockerfile-inline = "FROM under\nRUN cp /base /top\n"
  tags = ["bake:top"]
}
target "side" {
  context = "bake"
  dockerfile-inline = "FROM busybox\nCOPY f /side\n"
  tags = ["bake:side"]
}
target "bad" {
  context = "bake"
  dockerfile-inline = "FROM busybox\nRUN exit 5\n"
}
`})
	says(t, w.buildx("bake", "--progress", "plain", "-f", "bake/docker-bake.hcl"), "naming to docker.io/library/bake:top done", "[side] exporting to image", "[top] exporting to image")
	says(t, w.buildxFails("bake", "-f", "bake/docker-bake.hcl", "-j", "defer-output", "top", "bad"),
		"   2 | >>> RUN exit 5\n", `process "/bin/sh -c exit 5" did not complete successfully: exit code: 5`)
	w.want("^f$", "run", "--rm", "bake:top", "cat", "/top")
	w.want("^f$", "run", "--rm", "bake:side", "cat", "/side")
}

func testBuildxCancel(t *testing.T, w *world) {
	sleep := fmt.Sprint("sleep 98765.", os.Getpid()) // which nothing else on this machine does
	w.write(map[string]string{"slow/Dockerfile": "FROM busybox\nRUN echo begun; " + sleep + "\n"})
	cmd := exec.Command("docker", "buildx", "build", "--progress", "plain", "slow")
	cmd.Env, cmd.Dir = w.env, w.dir
	out, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	begun := regexp.MustCompile(`^#\d+ [\d.]+ begun`)
	lines := bufio.NewScanner(out)
	for lines.Scan() && !begun.MatchString(lines.Text()) {
	}
	cmd.Process.Signal(os.Interrupt)
	for lines.Scan() {
	}
	if err := cmd.Wait(); err == nil {
		t.Error("a build that was interrupted succeeded")
	}
	w.soon("the step has ended", func() bool { return exec.Command("pgrep", "-fx", sleep).Run() != nil })
}

func testBuildxAtOnce(t *testing.T, w *world) {
	w.write(map[string]string{"once/Dockerfile": "FROM busybox\nCOPY f /f\nRUN sleep 0.5; echo it ran\n", "once/f": "f"})
	outs := make([]string, 3)
	var wg sync.WaitGroup
	for i := range outs {
		wg.Go(func() {
			stdout, stderr, code := w.try("docker", "buildx", "build", "--progress", "plain", "once")
			if outs[i] = stdout + stderr; code != 0 {
				t.Errorf("exit code %d:\n%s", code, outs[i])
			}
		})
	}
	wg.Wait()
	if n := len(regexp.MustCompile(`(?m)^#\d+ [\d.]+ it ran$`).FindAllString(strings.Join(outs, ""), -1)); n != 1 {
		t.Errorf("the step ran %d times", n)
	}
}

// startRegistry serves a registry with the user "user" and the password "secret" in the network of w.
func (w *world) startRegistry() (address string) {
	w.t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(map[string]string{"users": "user:" + string(hash) + "\n"})
	cmd := exec.Command("nsenter", "--net="+w.dir+"/netns", w.teu, "serve", "registry", "--addr", "127.0.0.1:0", "--root", w.dir+"/registry", "--htpasswd", w.dir+"/users")
	cmd.Env = w.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = startApart(cmd)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	if address = regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line); address == "" {
		w.t.Fatalf("the registry said %q", line)
	}
	return address
}

func testBuildxRegistry(t *testing.T, w *world) {
	r := w.startRegistry()
	w.write(map[string]string{"push/Dockerfile": "FROM busybox\nRUN echo pushed >/f; echo it ran\n"})
	says(t, w.buildxFails("build", "-t", r+"/p/i:1", "--push", "push"), "ERROR", "denied by "+r)
	if _, stderr, code := w.tryIn("secret", "docker", "login", "-u", "user", "--password-stdin", r); code != 0 {
		t.Fatal(stderr)
	}
	says(t, w.buildx("build", "--progress", "plain", "-t", r+"/p/i:1", "--push", "--metadata-file", "pushed", "push"), "pushing "+r+"/p/i:1")
	meta, err := os.ReadFile(w.dir + "/pushed")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`"containerimage.digest": "(sha256:[0-9a-f]{64})"`).FindSubmatch(meta)
	if m == nil {
		t.Fatalf("metadata of a push: %s", meta)
	}
	w.docker("pull", r+"/p/i@"+string(m[1]))
	// The cache in the registry, and in the image.
	cache := r + "/p/cache"
	w.buildx("build", "-t", r+"/p/i:2", "--push", "--cache-to", "type=registry,ref="+cache+",mode=max", "push")
	w.buildx("build", "-t", r+"/p/i:3", "--push", "--cache-to", "type=inline", "push")
	if out := w.buildx("build", "--cache-to", "type=local,dest=dir-cache", "push"); strings.Contains(out, "ERROR") {
		t.Errorf("--cache-to type=local:\n%s", out)
	}
	for _, from := range []string{"type=registry,ref=" + cache, r + "/p/i:3", "type=local,src=dir-cache"} {
		w.buildx("prune", "-af")
		if out := w.buildx("build", "--progress", "plain", "--cache-from", from, "push"); !strings.Contains(out, " CACHED") || regexp.MustCompile(`(?m)[\d.]+ it ran$`).MatchString(out) {
			t.Errorf("--cache-from %s: the step ran:\n%s", from, out)
		}
	}
	// A base that wants the password.
	w.docker("rmi", "-f", r+"/p/i:1")
	w.write(map[string]string{"private/Dockerfile": "FROM " + r + "/p/i:1\nRUN cat /f\n"})
	w.buildx("build", "--pull", "private")
	testBuildxProvenance(t, w, r+"/p/stated")
}
