package engine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stack has six services and one more behind a profile.
const stack = `name: stack
x-short: &short {image: busybox, stop_grace_period: 1s}
services:
  db:
    <<: *short
    command: sh -c 'sleep 0.5; touch /tmp/ready; exec sleep 1000'
    healthcheck: {test: ["CMD", "test", "-f", "/tmp/ready"], interval: 200ms, retries: 50, timeout: 5s}
    volumes: [data:/data]
  migrate:
    <<: *short
    command: sh -c 'echo migrated >/data/version'
    volumes: [data:/data]
    depends_on: {db: {condition: DEPENDS}}
  api:
    <<: *short
    command: sh -c 'cat /data/version; echo from the api >/tmp/index.html; exec httpd -f -p 80 -h /tmp'
    volumes: [data:/data]
    depends_on: {migrate: {condition: service_completed_successfully}}
    networks: {default: {aliases: [backend]}, back: {}}
  web:
    <<: *short
    command: sh -c 'until wget -qO- http://backend/; do sleep 0.1; done; exec sleep 1000'
    depends_on: [api]
    ports: ["18080:80"]
    environment: {COLOUR: blue}
  worker:
    <<: *short
    command: sleep 1000
  cache:
    <<: *short
    command: sleep 1000
    networks: [back]
    labels: {tier: cache}
  debug:
    <<: *short
    profiles: [debug]
    command: sleep 1000
networks: {back: {internal: true}}
volumes: {data: {}}
`

// compose builds docker compose from its source, which takes long the first time only.
func compose(t *testing.T, w *world) func(args ...string) string {
	t.Helper()
	bin := filepath.Join(w.dir, "docker-compose")
	cmd := exec.Command("go", "build", "-o", bin, "github.com/docker/compose/v5/cmd")
	cmd.Dir, cmd.Env = "../../test/clients", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building docker compose: %v\n%s", err, out)
	}
	return func(args ...string) string {
		t.Helper()
		return w.run(bin, append([]string{"--progress", "plain", "-f", w.dir + "/compose.yaml"}, args...)...)
	}
}

// TestComposeBuild builds by docker compose, which leaves it to buildx.
func TestComposeBuild(t *testing.T) {
	w := newBuildxWorld(t)
	w.env = append(w.env, "DOCKER_BUILDKIT=1")
	c := compose(t, w)
	w.write(map[string]string{
		"app/f": "f\n", "token": "hush",
		"compose.yaml": `name: built
services:
  one:
    build:
      context: app
      dockerfile_inline: |
        FROM busybox
        RUN --mount=type=secret,id=token cp /run/secrets/token /t
        COPY f /f
      secrets: [token]
    command: sleep 1000
  two:
    build: {context: app, dockerfile_inline: "FROM busybox\nARG WHO\nRUN echo $$WHO >/who", args: {WHO: me}}
    image: two:tagged
    command: sleep 1000
secrets: {token: {file: token}}
`})
	c("build")
	w.want("^hush$", "run", "--rm", "built-one", "cat", "/t")
	w.want("^me$", "run", "--rm", "two:tagged", "cat", "/who")
	c("up", "-d", "--build")
	ids := c("ps", "-q")
	c("up", "-d") // an image whose ID is another one than was told would make new containers
	if got := c("ps", "-q"); got != ids || len(strings.Fields(ids)) != 2 {
		t.Errorf("containers %q became %q", ids, got)
	}
	w.write(map[string]string{"app/f": "changed\n"})
	c("up", "-d", "--build")
	if got := c("exec", "-T", "one", "cat", "/f"); got != "changed" {
		t.Errorf("after a change: %q", got)
	}
	c("down", "-t", "0")
}

// TestCompose runs a stack by docker compose: order, names, scale, logs, exec, profiles.
func TestCompose(t *testing.T) {
	w := newWorld(t)
	c := compose(t, w)
	text := strings.ReplaceAll(stack, "DEPENDS", "service_healthy")
	if err := os.WriteFile(w.dir+"/compose.yaml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c("up", "-d")
	if got := strings.Fields(c("ps", "--services", "--filter", "status=running")); len(got) != 5 {
		t.Errorf("services that run: %q", got)
	}
	w.soon("the web service has asked the api", func() bool { return strings.Contains(c("logs", "--no-color", "web"), "from the api") })
	if got := c("logs", "--no-color", "api"); !strings.Contains(got, "migrated") {
		t.Errorf("the api started before the migration: %q", got)
	}
	if got := c("exec", "-T", "web", "sh", "-c", "echo $COLOUR; wget -qO- http://api/"); got != "blue\nfrom the api" {
		t.Errorf("exec: %q", got)
	}
	if got := c("port", "web", "80"); got != "0.0.0.0:18080" {
		t.Errorf("port: %q", got)
	}
	id := c("ps", "-q", "db")
	if out := c("up", "-d"); c("ps", "-q", "db") != id { // nothing has changed
		t.Errorf("up made the same container again:\n%s", out)
	}
	c("up", "-d", "--scale", "worker=3")
	if got := strings.Fields(c("ps", "-q", "worker")); len(got) != 3 {
		t.Errorf("scaled to 3: %q", got)
	}
	c("--profile", "debug", "up", "-d", "debug")
	c("run", "--rm", "--no-deps", "worker", "true")
	c("restart", "-t", "0", "cache")
	c("stop", "-t", "0", "worker")
	if got := c("ps", "-a", "--format", "{{.Service}} {{.State}}", "worker"); strings.Count(got, "exited") != 3 {
		t.Errorf("stopped: %q", got)
	}
	c("up", "-d", "--force-recreate", "--no-deps", "cache")
	c("--profile", "*", "down", "-v", "-t", "1")
	for _, left := range []string{w.docker("ps", "-aq"), w.docker("volume", "ls", "-q"), w.docker("network", "ls", "-q", "--filter", "type=custom")} {
		if left != "" {
			t.Errorf("down -v leaves %q", left)
		}
	}
}
