//go:build !front && !porter

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/teu-dev/teu/build"
)

// inputs reads what the user said is on standard input, the Dockerfile or the context as a tar, and a
// Dockerfile that is on the web.
func (f *buildFlags) inputs(ctx context.Context, in io.Reader, o *build.Options) error {
	switch {
	case f.file == "-" || o.Context == "-" && f.file == "":
		o.DockerfileName = "stdin"
	case f.file != "" || !strings.Contains(o.Context, "://"):
		o.DockerfileName = o.DockerfilePath()
	}
	if !isURL(f.file) {
		return f.stdin(in, o)
	}
	body, err := download(ctx, f.file)
	if err != nil {
		return fmt.Errorf("downloading the Dockerfile: %w", err)
	}
	defer body.Close()
	text, err := readDockerfile(body)
	if err != nil {
		return err
	}
	o.Dockerfile = ""
	if o.Context == "-" {
		o.Context, o.ContextTar = "", in
	}
	o.DockerfileText = text
	return nil
}

// stdin reads what is on standard input.
func (f *buildFlags) stdin(in io.Reader, o *build.Options) error {
	switch {
	case f.file == "-" && o.Context == "-":
		return &usageError{command: "teu build", err: errors.New("standard input cannot be both Dockerfile and context")}
	case f.file == "-":
		text, err := readDockerfile(in)
		o.Dockerfile, o.DockerfileText = "", text
		return err
	case o.Context == "-":
		r := bufio.NewReaderSize(in, 512)
		head, err := r.Peek(512)
		if err != nil && err != io.EOF {
			return fmt.Errorf("reading standard input: %w", err)
		}
		if isArchive(head) {
			o.Context, o.ContextTar = "", r
			return nil
		}
		if f.file != "" {
			return &usageError{command: "teu build", err: errors.New("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")}
		}
		text, err := readDockerfile(r)
		o.Context, o.DockerfileText = "", text
		return err
	}
	if o.Dockerfile != "" && !strings.Contains(o.Context, "://") && !filepath.IsAbs(o.Dockerfile) {
		abs, err := filepath.Abs(o.Dockerfile)
		o.Dockerfile = abs
		return err
	}
	return nil
}

func readDockerfile(r io.Reader) ([]byte, error) {
	const limit = 16 << 20
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the Dockerfile: %w", err)
	}
	if len(text) > limit {
		return nil, fmt.Errorf("the Dockerfile is larger than %d bytes", limit)
	}
	return text, nil
}

// isArchive knows a tar, plain or compressed, by its first 512 bytes.
func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next() // of any age: the header has a checksum
	return err == nil
}
