//go:build !front

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/teu-dev/teu/build"
)

// stdin reads what the user said is on standard input: the Dockerfile, or the context as a tar.
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

// isArchive knows a tar, plain or compressed, by its first bytes.
func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return len(head) >= 262 && bytes.HasPrefix(head[257:], []byte("ustar"))
}
