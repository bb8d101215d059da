package main

import (
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// unpacking writes a program that teu carries as zstd.
func unpacking(elf string) func(io.Writer) error {
	return func(w io.Writer) error {
		z, err := zstd.NewReader(strings.NewReader(elf))
		if err != nil {
			return err
		}
		defer z.Close()
		_, err = io.Copy(w, z)
		return err
	}
}
