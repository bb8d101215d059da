package op

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/build/solver"
)

// gitOp refuses sources that are git repositories, in words that help.
//
// TODO(build): fetch them by the git binary.
func (e *Env) gitOp(ref string, attrs map[string]string) (solver.Op[Result], error) {
	return nil, fmt.Errorf("git repository %s: sources in git are not supported yet; clone it and build from the directory: %w", redact("git://"+ref), errdefs.ErrNotImplemented)
}
