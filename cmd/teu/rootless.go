package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/userns"
)

// entersNamespace says that a user who is not root needs the user's namespaces for these
// arguments: all that touches the store does. `teu oci` makes a namespace per container,
// as runc does.
func (l commandLine) entersNamespace() bool {
	if len(l.words) == 0 {
		return false
	}
	// After the commands that take another program's arguments it may be that program's.
	if l.words[len(l.words)-1] == "--help" && !slices.Contains([]string{"run", "create", "exec", "container"}, l.words[0]) {
		return false
	}
	switch l.words[0] {
	case "oci", "version", "help", "login", "logout", "search", "registry", "completion", "context", "man":
		return false
	case "serve":
		return len(l.words) > 1 && l.words[1] == "engine"
	}
	return true
}

// becomeRoot executes this command again as root of the user's namespaces. It returns if it cannot.
func (a *app) becomeRoot(ctx context.Context, l commandLine) error {
	if l.root != "" {
		a.root = l.root
	}
	if l.runRoot != "" {
		a.runRoot = l.runRoot
	}
	for _, dir := range []*string{&a.root, &a.runRoot} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	// Inside we are root, whose paths are others.
	for _, v := range [][2]string{{"TEU_ROOT", a.root}, {"TEU_RUN_ROOT", a.runRoot}, {"TEU_CONFIG", a.configFile}} {
		if err := os.Setenv(v[0], v[1]); err != nil {
			return err
		}
	}
	path := a.self.path
	err := userns.Enter(ctx, userns.Options{
		RunRoot: a.runRoot, Survivors: a.keepers, Warn: func(text string) { a.ui.Warnf("%s", text) }, Path: path, Args: os.Args, Env: os.Environ(),
	})
	return fmt.Errorf("running as user %d: %w", os.Geteuid(), err)
}

// keepers are the processes that were noted as keepers of containers, and their holders.
func (a *app) keepers() (list []statefile.Process) {
	files, err := filepath.Glob(filepath.Join(a.root, "containers/*/state.json"))
	if err != nil {
		return nil
	}
	for _, f := range files {
		var s keeper.State
		if statefile.Read(f, &s) == nil && !s.Finished {
			list = append(list, s.Keeper, s.Holder)
		}
	}
	return list
}

// userRunRoot is where volatile state of a user is: one place, whatever way the user logged
// in, because a container that runs is found by it. A directory of somebody else, which su(1) without a login leaves
// in the environment, is none.
func userRunRoot() string {
	uid := os.Geteuid()
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && unix.Access(dir, unix.W_OK) != unix.EACCES {
		return filepath.Join(dir, "teu")
	}
	if dir := fmt.Sprintf("/run/user/%d", uid); unix.Access(dir, unix.W_OK) == nil {
		return filepath.Join(dir, "teu")
	}
	return filepath.Join(fmt.Sprintf("/tmp/teu-%d", uid), "teu")
}
