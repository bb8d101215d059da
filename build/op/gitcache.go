package op

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/teu-dev/teu/cache/statefile"
)

// What was fetched from repositories is kept for the next build:
//
//	DIR/git/repo-HEX       a bare repository, named by the digest of the remote; git's file description names that for people
//	DIR/git/repo-HEX.new   one that is being made
//	DIR/git/repo-HEX.lock  held by the build that uses it; its time is that of the last use
const repoPrefix = "repo-"

func (e *Env) gitRoot() string { return filepath.Join(e.Dir, "git") }

// A GitRepo is what is kept of a repository.
type GitRepo struct {
	Key      string // the digest of its remote, in hex
	Remote   string // without a password
	Dir      string
	LastUsed time.Time
	InUse    bool // a build works with it now
}

// GitRepos returns the repositories that are kept.
func (e *Env) GitRepos() (list []GitRepo, err error) {
	entries, err := os.ReadDir(e.gitRoot())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, entry := range entries {
		key, ok := strings.CutPrefix(entry.Name(), repoPrefix)
		if !ok || strings.Contains(key, ".") {
			continue
		}
		r := GitRepo{Key: key, Dir: filepath.Join(e.gitRoot(), entry.Name())}
		used, err := os.Stat(r.Dir + ".lock")
		if errors.Is(err, fs.ErrNotExist) {
			continue // it goes
		}
		if err != nil {
			return nil, err
		}
		r.LastUsed = used.ModTime()
		remote, _ := os.ReadFile(filepath.Join(r.Dir, "description"))
		r.Remote = string(remote)
		unlock, free, err := statefile.TryLock(r.Dir+".lock", statefile.LockOptions{Shared: true})
		if err != nil {
			return nil, err
		}
		if r.InUse = !free; free {
			if err := unlock(); err != nil {
				return nil, err
			}
		}
		list = append(list, r)
	}
	return list, err
}

// RemoveGitRepo removes what is kept of a repository, unless a build uses it.
func (e *Env) RemoveGitRepo(key string) error {
	dir := filepath.Join(e.gitRoot(), repoPrefix+key)
	unlock, free, err := statefile.TryLock(dir+".lock", statefile.LockOptions{})
	if err != nil || !free {
		return err
	}
	// The lock goes last: whoever waited for it finds that it is another one now.
	err = errors.Join(statefile.RemoveAll(dir), statefile.RemoveAll(dir+".new"), os.Remove(dir+".lock"))
	return errors.Join(err, unlock())
}
