//go:build front

// The front has no work for which it matters how many CPUs its control group lets it use, and looking takes 2 % of `teu exec`.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/program"
	"github.com/teu-dev/teu/runner/slack"
)

// bin/teu is three programs in one file. The front has the commands that live for
// milliseconds, and links nothing that they do not use: what a program links it
// initialises at every start. The commands that carry images to and from registries and
// archives are in the porter, which need not wait for the compiler of Dockerfiles either.
// That and all else is in the whole of teu. The front carries both compressed, unpacks
// each once and becomes it. The tags front and porter make these; without a tag `go build`
// makes the whole.

// The programs that the front carries, zstd, built by `make build`.
var (
	//go:embed teu-whole.zst
	wholeELF string
	//go:embed teu-porter.zst
	porterELF string
)

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
		if word == "--gpus" || strings.HasPrefix(word, "--gpus=") || ok && isCDIName(device) || i > 0 && l.words[i-1] == "--device" && isCDIName(word) {
			return true
		}
	}
	return false
}

// handOver executes the program for the command in place of this one. It returns if it cannot.
func (a *app) handOver(l commandLine) error {
	if len(l.words) > 0 && slices.Contains(carried(), l.words[0]) && os.Getenv(wholeVariable) == "" {
		return a.become("the porter", a.self.identity+"-porter", porterELF)
	}
	return a.becomeWhole()
}

// becomeWhole is handOver for what only the whole of teu can do.
func (a *app) becomeWhole() error { return a.become("the whole", a.self.identity, wholeELF) }

func (a *app) become(what, identity, elf string) error {
	exe, err := program.Executable(filepath.Join(a.root, "programs"), identity, "teu", unpacking(elf))
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
	return fmt.Errorf("executing %s of teu: %w", what, err)
}

type wholeParts struct{}

func ownSelf() self { return findSelf() }

// handOverFor lets another program go on if the configuration asks for what this one cannot do.
func (a *app) handOverFor(config) error { return nil }
