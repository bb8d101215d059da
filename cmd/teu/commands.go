//go:build !front && !porter

package main

import (
	"slices"

	"github.com/teu-dev/teu/dockerfile"
)

// commands lists every top-level command.
func commands() []command {
	return slices.Concat(shortCommands(), carryingCommands(),
		[]command{
			{"build", newBuildCommand},
			{"import", newImportCommand},
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
			{"context", newContextCommand},
			{"completion", newCompletionCommand},
			{"man", newManCommand},
		})
}

func changeConfig(config []byte, instructions []string) ([]byte, error) {
	return dockerfile.Change(config, instructions)
}

func (l commandLine) handsOver() bool { return false }

// What the front and the porter do.

func (a *app) handOver(commandLine) error { return nil }
func (a *app) handOverFor(config) error   { return nil }
