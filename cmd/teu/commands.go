//go:build !front

package main

import (
	"os"
	"strings"

	"github.com/teu-dev/teu/dockerfile"
)

// commands lists every top-level command.
func commands() []command {
	return append(shortCommands(),
		[]command{
			{"build", newBuildCommand},
			{"pull", newPullCommand},
			{"push", newPushCommand},
			{"rmi", newRmiCommand},
			{"tag", newTagCommand},
			{"history", newHistoryCommand},
			{"save", newSaveCommand},
			{"load", newLoadCommand},
			{"import", newImportCommand},
			{"search", newSearchCommand},
			{"copy", newCopyCommand},
			{"manifest", newManifestCommand},
			{"login", newLoginCommand},
			{"logout", newLogoutCommand},
			{"cp", newCpCommand},
			{"diff", newDiffCommand},
			{"commit", newCommitCommand},
			{"export", newExportCommand},
			{"update", newUpdateCommand},
			{"events", newEventsCommand},
			{"why", newWhyCommand},
			{"container", newContainerCommand},
			{"image", newImageCommand},
			{"network", newNetworkCommand},
			{"volume", newVolumeCommand},
			{"builder", newBuilderCommand},
			{"buildx", newBuildxCommand},
			{"system", newSystemCommand},
			{"info", newInfoCommand},
			{"serve", newServeCommand},
			{"registry", newRegistryCommand},
			{"completion", newCompletionCommand},
			{"man", newManCommand},
		}...)
}

// ownSelf is the executable that has handed over to this one, or this one.
func ownSelf() self {
	identity, path, ok := strings.Cut(os.Getenv(selfVariable), " ")
	os.Unsetenv(selfVariable) // it is nothing to those that teu starts
	if !ok {
		return findSelf()
	}
	return self{path, identity}
}

func changeConfig(config []byte, instructions []string) ([]byte, error) {
	return dockerfile.Change(config, instructions)
}

func (l commandLine) handsOver() bool { return false }

// becomeWhole is what the front does.
func (a *app) becomeWhole() error { return nil }
