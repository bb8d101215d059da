//go:build front || porter

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner"
)

// The parts of the whole that commands of the others can come to need.

type registryConfig = json.RawMessage

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

// injectCDI is the whole's: nobody gets here with a device of that kind.
func (a *app) injectCDI(o *runner.Options) error {
	if len(o.CDIDevices) > 0 {
		return fmt.Errorf("CDI devices %s: write them as --device NAME", strings.Join(o.CDIDevices, ", "))
	}
	return nil
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
