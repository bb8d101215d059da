package runner

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/teu-dev/teu/runner/selinux"
)

// initFile is the executable that containers with --init get as their first process: a
// copy of the keeper, named after its content. It stays until the run root is emptied, by
// which containers that use it have ended.
func (e *Engine) initFile() (string, error) {
	b, err := e.Keeper()
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	if _, err := b.WriteTo(hash); err != nil {
		return "", err
	}
	name := filepath.Join(e.RunRoot, fmt.Sprintf("init-%x", hash.Sum(nil)[:8]))
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	f, err := os.CreateTemp(e.RunRoot, ".init-")
	if err != nil {
		return "", err
	}
	_, err = b.WriteTo(f)
	err = errors.Join(err, f.Chmod(0o555), f.Close())
	if _, label, no := selinux.Defaults(); err == nil && no == nil {
		err = selinux.SetFile(f.Name(), label.String())
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return name, nil
}
