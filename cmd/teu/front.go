//go:build front

package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/program"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/slack"
)

// bin/teu is two programs in one file. The front has the commands that live for
// milliseconds, and links nothing that they do not use: what a program links it
// initialises at every start. All else, the compiler of Dockerfiles first of all, is in
// the whole of teu, which the front carries compressed, unpacks once and becomes. The tag
// front makes the front; without it `go build` makes the whole.

// wholeELF is the whole of teu, zstd, built by `make whole`.
//
//go:embed teu-whole.zst
var wholeELF string

// commands lists what the front does by itself.
func commands() []command {
	return append(shortCommands(), command{"container", newFrontContainerCommand}, command{"image", newFrontImageCommand})
}

// newFrontContainerCommand has what keepers execute of the group; its user gets the whole.
func newFrontContainerCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "container"}
	cmd.AddCommand(newContainerFinishCommand(a))
	return cmd
}

func newFrontImageCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "image"}
	cmd.AddCommand(newImageLsCommand(a))
	return cmd
}

// handsOver says that the arguments are for the whole of teu.
func (l commandLine) handsOver() bool {
	if len(l.words) == 0 {
		return !l.version
	}
	switch l.words[0] {
	case "container":
		return len(l.words) < 2 || l.words[1] != "finish"
	case "image":
		return len(l.words) < 2 || l.words[1] != "ls" && l.words[1] != "list"
	}
	_, mine := named(commands(), l.words[0])
	return !mine || l.wantsCDI()
}

// wantsCDI says that a container is to have a device whose vendor's file must be read.
func (l commandLine) wantsCDI() bool {
	if l.words[0] != "run" && l.words[0] != "create" {
		return false
	}
	for i, word := range l.words {
		device, ok := strings.CutPrefix(word, "--device=")
		if ok && isCDIName(device) || i > 0 && l.words[i-1] == "--device" && isCDIName(word) {
			return true
		}
	}
	return false
}

// injectCDI is the whole's: the front does not get here with a device of that kind.
func (a *app) injectCDI(o *runner.Options) error {
	if len(o.CDIDevices) > 0 {
		return fmt.Errorf("CDI devices %s: write them as --device NAME", strings.Join(o.CDIDevices, ", "))
	}
	return nil
}

// becomeWhole executes the whole of teu in place of this process. It returns if it cannot.
func (a *app) becomeWhole() error {
	exe, err := program.Executable(filepath.Join(a.root, "programs"), a.self.identity, "teu", unpacking(wholeELF))
	if err == nil {
		env := append(os.Environ(), selfVariable+"="+a.self.identity+" "+a.self.path)
		execute := func() { slack.Usual(func() { err = unix.Exec(exe, os.Args, env) }) }
		execute()
		// A keeper that was being started while the file was written has it open until it executes.
		for range 500 {
			if err != unix.ETXTBSY {
				break
			}
			time.Sleep(2 * time.Millisecond)
			execute()
		}
	}
	return fmt.Errorf("executing the whole of teu: %w", err)
}

// The parts of the whole that commands of the front can come to need.

type wholeParts struct{}

type registryConfig = json.RawMessage

func ownSelf() self { return findSelf() }

// teachCompletion is what the whole does, which answers `teu __complete`.
func teachCompletion(*app, *cobra.Command) {}

// imageMissing lets the whole of teu go on from the beginning: it can pull.
func (a *app) imageMissing(ctx context.Context, name string, cause error) bool {
	store, err := a.store()
	if err != nil {
		return false
	}
	if _, err = store.Lookup(ctx, name); isNotFound(err) || errors.Is(cause, runner.ErrPlatform) {
		a.ui.Error(a.becomeWhole())
	}
	return false
}

// inspectOther lets the whole of teu begin again: nothing has been printed yet.
func (a *app) inspectOther(context.Context, string, string) (any, error) {
	return nil, a.becomeWhole()
}

func (a *app) pullForRun(context.Context, string, *ocispec.Platform, bool) error {
	return a.becomeWhole()
}

func changeConfig([]byte, []string) ([]byte, error) {
	return nil, fmt.Errorf("changing the config of an image: %w", errdefs.ErrNotImplemented)
}
