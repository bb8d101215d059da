package content

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestDecompressForeign: what other tools than those that make layers compress.
func TestDecompressForeign(t *testing.T) {
	const text = "some bytes, more than the head of a file has"
	compress := func(tool string, flags ...string) string {
		cmd := exec.Command(tool, append(flags, "-c")...)
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", tool, err)
		}
		return string(out)
	}
	bz, xz := compress("bzip2"), compress("xz")
	for name, tc := range map[string]struct {
		in, want string
		err      error
	}{
		"bzip2":            {in: bz, want: text},
		"cut bzip2":        {in: bz[:len(bz)-6], err: errdefs.ErrDataLoss},
		"a name like that": {in: "BZh91AY is a file's name", want: "BZh91AY is a file's name"},
		"xz":               {in: xz, want: text},
		"two streams":      {in: xz + "\x00\x00\x00\x00" + compress("xz", "--check=sha256"), want: text + text},
		"filters of xz":    {in: compress("xz", "--x86", "--delta=dist=4", "--lzma2=preset=9"), want: text},
		"damaged xz":       {in: xz[:30] + "?" + xz[31:], err: errdefs.ErrDataLoss},
		"cut xz":           {in: xz[:len(xz)-6], err: errdefs.ErrDataLoss},
		"head of xz":       {in: xz[:8], err: errdefs.ErrDataLoss},
		"much memory":      {in: compress("xz", "--lzma2=dict=192MiB"), err: errdefs.ErrOutOfRange},
		"short":            {in: "BZh", want: "BZh"},
		// RFC 8878, 3.1.1: a window of 2^(10+18) bytes, and an empty block that is the last.
		"a large window of zstd":   {in: "\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00", err: errdefs.ErrOutOfRange},
		"a window that is allowed": {in: "\x28\xb5\x2f\xfd\x00\x88\x01\x00\x00"},
	} {
		r, err := Decompress(t.Context(), strings.NewReader(tc.in))
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
		}
		if !errors.Is(err, tc.err) || tc.err == nil && string(got) != tc.want {
			t.Errorf("%s: got %q, %v, want %q, %v", name, got, err, tc.want, tc.err)
		}
	}
}
