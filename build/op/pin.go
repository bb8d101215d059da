package op

import (
	"github.com/teu-dev/teu/build/solver"
)

// Pin says what the source operation, which was asked for its key, stands for now: the digest of an image or
// of a download, or a commit. It is "" for a directory.
func Pin(operation solver.Op[Result]) string {
	switch o := operation.(type) {
	case *imageOp:
		return o.image.Target.Digest.String()
	case *httpOp:
		return o.got.Digest.String()
	case *gitOp:
		return o.commit
	}
	return ""
}
