//go:build !front && !porter

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/library"
)

func newImportCommand(a *app) *cobra.Command {
	var o library.ImportOptions
	var platform string
	cmd := &cobra.Command{
		Use:   "import [OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]",
		Short: "Make an image of a tar archive of files",
		Long:  "Make an image of one layer of a tar archive of files: plain, gzip, zstd, bzip2 or xz. \"-\" is standard input.",
		Example: `  teu import rootfs.tar.gz registry.example/base:1
  teu export web | teu import -c 'CMD ["/bin/sh"]' - web-files`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Platform, err = onePlatform(platform); err != nil {
				return err
			}
			if len(args) > 1 {
				o.Name = args[1]
			}
			return importFiles(cmd.Context(), a, args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.Changes, "change", "c", nil, "apply an instruction of a Dockerfile, such as 'ENV A=b'")
	f.StringVarP(&o.Message, "message", "m", "", "message for the history of the image")
	f.StringVar(&platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "platform of the image (default the host's)")
	return cmd
}

func importFiles(ctx context.Context, a *app, from string, o library.ImportOptions) (err error) {
	if o.Message == "" {
		o.Message = "Imported from -" // docker sends files as its standard input
		if isURL(from) {
			o.Message = "Imported from " + from
		}
	}
	r, err := a.openSource(ctx, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	lib, err := a.library()
	if err != nil {
		return err
	}
	id, err := lib.Import(ctx, r, o)
	if err != nil {
		return err
	}
	a.holdBudget(ctx)
	a.ui.Println(id)
	return nil
}

func isURL(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

// openSource opens standard input ("-"), a URL or a file.
func (a *app) openSource(ctx context.Context, from string) (io.ReadCloser, error) {
	switch {
	case from == "-":
		if a.ui.InTerminal() {
			return nil, errors.New("requested import from standard input, but that is a terminal")
		}
		return io.NopCloser(a.ui.In), nil
	case isURL(from):
		a.ui.Notef("Downloading from %s", from)
		return download(ctx, from)
	}
	return os.Open(from)
}

// download begins to read what is at a URL.
func download(ctx context.Context, from string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s answered %s", from, resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}
