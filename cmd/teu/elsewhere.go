package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/coldjson"
)

// Where docker's environment and configuration lead. docker's command line is a client, and its user
// may have chosen a machine once, for every command since. teu works on this machine, so whoever
// means another one has to hear of it.

// A dockerChoice is the engine that docker's own command would talk to.
type dockerChoice struct {
	context string // docker's, or empty
	host    string // empty if the context is not known
}

// chosenDocker returns what docker's command takes without flags, in its order (docker/cli
// cli/command/cli.go, resolveContextName): DOCKER_HOST, DOCKER_CONTEXT, then `docker context use`.
func chosenDocker() dockerChoice {
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		return dockerChoice{host: host}
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		name = currentContext()
	}
	return dockerChoice{context: name, host: contextHost(name)}
}

// contextName is the context that docker's command takes without flags.
func contextName() string { return cmp.Or(chosenDocker().context, "default") }

// elsewhere says that this is not an engine of this machine. tcp is somebody else's even at the
// loopback address: a tunnel ends there, or a machine of its own.
func (c dockerChoice) elsewhere() bool {
	if c.context == "default" || c == (dockerChoice{}) {
		return false
	}
	return !strings.HasPrefix(c.host, "unix://")
}

// dockerDir is docker's directory of configuration, or "".
func dockerDir() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "" // not that of whatever directory this one is
	}
	return filepath.Join(home, ".docker")
}

// currentContext is what `docker context use` has written. Most files say nothing of it, and decoding
// one would take longer than reading it.
func currentContext() string {
	b := readDockerFile("config.json")
	if !bytes.Contains(b, []byte(`"currentContext"`)) {
		return ""
	}
	var c struct {
		CurrentContext string `json:"currentContext"`
	}
	if coldjson.Unmarshal(b, &c) != nil {
		return ""
	}
	return c.CurrentContext
}

// contextHost returns where the engine of a context is, or nothing if that is not known here.
func contextHost(name string) string {
	if name == "" || name == "default" {
		return ""
	}
	var meta struct {
		Endpoints map[string]struct{ Host string }
	}
	if coldjson.Unmarshal(readDockerFile(filepath.Join("contexts/meta", contextID(name), "meta.json")), &meta) != nil {
		return ""
	}
	return meta.Endpoints["docker"].Host
}

// contextID is what the directories of a context are called (docker/cli cli/context/store, contextdirOf).
func contextID(name string) string {
	id := sha256.Sum256([]byte(name))
	return hex.EncodeToString(id[:])
}

// dockerFlags are docker's flags for an engine.
type dockerFlags struct {
	hosts   []string
	context string
}

// check refuses another machine; a socket of this one, or the default context, is where teu works anyhow.
func (f dockerFlags) check() error {
	for _, host := range f.hosts {
		if c := (dockerChoice{host: host}); c.elsewhere() {
			return &elsewhereError{c}
		}
	}
	if c := (dockerChoice{context: f.context, host: contextHost(f.context)}); c.elsewhere() {
		return &elsewhereError{c}
	}
	return nil
}

type elsewhereError struct{ choice dockerChoice }

func (e *elsewhereError) Error() string {
	if e.choice.context != "" {
		return fmt.Sprintf("teu works on this machine, not where docker's context %s is", e.choice.context)
	}
	return fmt.Sprintf("teu works on this machine, not on %s", e.choice.host)
}

func (e *elsewhereError) Hint() string {
	host := "HOST"
	if h, ok := strings.CutPrefix(e.choice.host, "ssh://"); ok && !strings.ContainsAny(h, ":/") {
		host = h
	}
	return "for that one use `ssh " + host + " teu ...`, or docker itself"
}

// warnElsewhere tells of a choice that teu does not follow, before the command does what was perhaps
// meant for another machine.
func (a *app) warnElsewhere(cmd *cobra.Command) {
	if cmd.Hidden || cmd.HasSubCommands() || slices.Contains(
		[]string{"completion", "context", "copy", "help", "login", "logout", "man", "manifest", "oci", "registry", "search", "serve", "version"},
		a.words[0]) {
		return // executed by teu itself or by engines, or about no engine's containers and images
	}
	if len(a.wishes.hosts) > 0 || a.wishes.context != "" {
		return // this command was said to be for this machine
	}
	c := chosenDocker()
	switch {
	case !c.elsewhere():
	case c.context == "":
		a.ui.Warnf("DOCKER_HOST is %s, but teu works on this machine; unset it if that is meant", c.host)
	case c.host == "":
		a.ui.Warnf("docker's context is %s, but teu works on this machine; set DOCKER_CONTEXT=default if that is meant", c.context)
	default:
		a.ui.Warnf("docker's context is %s (%s), but teu works on this machine; set DOCKER_CONTEXT=default if that is meant", c.context, c.host)
	}
}
