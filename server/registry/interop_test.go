package registry

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/test/privilege"
)

// tools runs the clients of others with a store of their own, which needs root.
type tools struct {
	t      *testing.T
	dir    string
	host   string              // HOST:PORT of the registry
	global map[string][]string // arguments of each tool that come first
}

func newTools(t *testing.T, c *client) tools {
	t.Helper()
	privilege.NeedRoot(t)
	dir := t.TempDir()
	run, err := os.MkdirTemp("", "p") // podman wants a path of at most 50 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	store := []string{"--root", filepath.Join(dir, "root"), "--runroot", run, "--storage-driver", "vfs"}
	x := tools{t, dir, strings.TrimPrefix(c.base, "http://"), map[string][]string{
		"skopeo": {"--policy", filepath.Join(dir, "policy.json")}, "podman": store, "buildah": store,
	}}
	for name, text := range map[string]string{"policy.json": `{"default":[{"type":"insecureAcceptAnything"}]}`, "auth.json": "{}"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { // podman and buildah mount their store over itself
		exec.Command("umount", filepath.Join(dir, "root")).Run()
	})
	return x
}

// run runs a tool and returns its trimmed output.
func (x tools) run(name string, args ...string) string {
	x.t.Helper()
	out, err := x.try(name, args...)
	if err != nil {
		x.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (x tools) try(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(x.t.Context(), name, append(slices.Clone(x.global[filepath.Base(name)]), args...)...)
	cmd.Env = append(os.Environ(), "REGISTRY_AUTH_FILE="+filepath.Join(x.dir, "auth.json"), "DOCKER_CONFIG="+filepath.Join(x.dir, "docker-config"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		return stdout.String() + stderr.String(), err
	}
	return strings.TrimSpace(stdout.String()), nil
}

// build makes an image of one file with buildah and returns its name there.
func (x tools) build(name string) string {
	x.t.Helper()
	file := filepath.Join(x.dir, name)
	if err := os.WriteFile(file, randomBytes(3<<20), 0o644); err != nil {
		x.t.Fatal(err)
	}
	container := x.run("buildah", "from", "scratch")
	x.run("buildah", "copy", container, file, "/file")
	x.run("buildah", "commit", "--rm", container, "localhost/"+name)
	return "localhost/" + name
}

// TestInterop: what buildah, podman and skopeo push, all of them can pull, in the formats
// of OCI and Docker.
func TestInterop(t *testing.T) {
	c := serve(t)
	x := newTools(t, c)
	image := x.build("one")
	for _, format := range []string{"oci", "v2s2"} {
		t.Run(format, func(t *testing.T) {
			x := tools{t, x.dir, x.host, x.global}
			names := map[string]string{}
			for _, tool := range []string{"buildah", "podman"} {
				names[tool] = x.host + "/" + tool + "/" + format + ":v1"
				x.run(tool, "push", "--tls-verify=false", "--format", format, image, "docker://"+names[tool])
			}
			names["skopeo"] = x.host + "/skopeo/" + format + ":v1"
			// From one repository of a registry to another: a mount.
			x.run("skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+names["buildah"], "docker://"+names["skopeo"])
			for pusher, name := range names {
				want := x.run("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+name)
				dir := filepath.Join(x.dir, pusher+format)
				x.run("skopeo", "copy", "--src-tls-verify=false", "docker://"+name, "dir:"+dir)
				b, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
				if err != nil || digest.FromBytes(b).String() != want {
					t.Errorf("%s: the manifest is not %s (%v)", name, want, err)
				}
				for _, tool := range []string{"podman", "buildah"} {
					x.run(tool, "rmi", "--all", "--force")
					x.run(tool, "pull", "--tls-verify=false", name)
				}
				x.run("podman", "tag", name, image)
			}
		})
	}
}

// TestInteropIndex pushes an image for two platforms and pulls all of it.
func TestInteropIndex(t *testing.T) {
	c := serve(t)
	x := newTools(t, c)
	x.run("buildah", "manifest", "create", "localhost/index")
	for _, arch := range []string{"amd64", "arm64"} {
		x.run("buildah", "manifest", "add", "--arch", arch, "localhost/index", x.build(arch))
	}
	name := "docker://" + x.host + "/index:v1"
	x.run("buildah", "manifest", "push", "--all", "--tls-verify=false", "localhost/index", name)
	x.run("skopeo", "copy", "--all", "--src-tls-verify=false", name, "dir:"+filepath.Join(x.dir, "all"))
	if got := strings.Count(x.run("skopeo", "inspect", "--raw", "--tls-verify=false", name), `"architecture"`); got != 2 {
		t.Errorf("got %d platforms, want 2", got)
	}
	if got := x.run("skopeo", "list-tags", "--tls-verify=false", "docker://"+x.host+"/index"); !strings.Contains(got, `"v1"`) {
		t.Errorf("got tags %s", got)
	}
	x.run("skopeo", "delete", "--tls-verify=false", name)
	if out, err := x.try("skopeo", "inspect", "--tls-verify=false", name); err == nil {
		t.Errorf("deleted, but there: %s", out)
	}
}

// TestInteropLogin logs in with podman and pushes with skopeo.
func TestInteropLogin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	writeUsers(t, file, hashed(t, "ann", "secret"))
	c := serveOptions(t, Options{Root: t.TempDir(), Htpasswd: file})
	x := newTools(t, c)
	x.run("podman", "login", "--tls-verify=false", "-u", "ann", "-p", "secret", x.host)
	x.run("buildah", "push", "--tls-verify=false", x.build("one"), "docker://"+x.host+"/one")
	name := "docker://" + x.host + "/one"
	x.run("skopeo", "inspect", "--tls-verify=false", name)
	if out, err := x.try("skopeo", "inspect", "--tls-verify=false", "--creds", "ann:wrong", name); err == nil || !strings.Contains(out, "authentication required") {
		t.Errorf("a wrong password was accepted, or refused in other words than docker's: %s", out)
	}
}

// TestInteropAccounts: podman and skopeo get tokens, and may do what the rules say.
func TestInteropAccounts(t *testing.T) {
	c, robot := accountsServer(t)
	x := newTools(t, c)
	image := x.build("one")
	if out, err := x.try("buildah", "push", "--tls-verify=false", image, "docker://"+x.host+"/public/one"); err == nil {
		t.Errorf("anybody can push: %s", out)
	}
	x.run("podman", "login", "--tls-verify=false", "-u", "ann", "-p", "ann's password", x.host)
	x.run("buildah", "push", "--tls-verify=false", image, "docker://"+x.host+"/team/app")
	x.run("buildah", "push", "--tls-verify=false", image, "docker://"+x.host+"/public/one")
	name := "docker://" + x.host + "/team/app"
	x.run("skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds", "ci:"+robot, "--dest-creds", "ci:"+robot, name+":latest", name+":copy")
	x.run("skopeo", "delete", "--tls-verify=false", name+":copy")
	x.run("podman", "logout", x.host)
	x.run("skopeo", "inspect", "--tls-verify=false", "docker://"+x.host+"/public/one")
	for _, creds := range []string{"bob:bob's password", "ann:wrong"} {
		if out, err := x.try("skopeo", "inspect", "--tls-verify=false", "--creds", creds, name); err == nil {
			t.Errorf("%s can pull: %s", creds, out)
		}
	}
}
