package op

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/statefile"
)

// gitOp is a git:// source: the files of a commit. It does what BuildKit v0.33 does in source/git,
// by the program git, as there.
type gitOp struct {
	env            *Env
	remote         string
	ref, subdir    string
	checksum       string // of the commit or tag; may be a prefix
	keepGitDir     bool
	noSubmodules   bool
	fetchByCommit  bool
	mtime          string // "" or "commit"
	header, token  string // secrets with credentials
	ssh            string // ID of an agent
	knownHosts     string
	advice         bool   // pass on what git explains of its own accord
	resolvedRef    string // of the remote, or the commit
	commit, tagged string // what the ref is; the commit, if that is a tag
}

func (e *Env) gitOp(id string, attrs map[string]string) (*gitOp, error) {
	o := &gitOp{env: e}
	o.remote, o.ref, _ = strings.Cut(id, "#")
	o.ref, o.subdir, _ = strings.Cut(o.ref, ":")
	o.remote = withTransport(o.remote)
	for name, value := range attrs {
		switch name {
		case pb.AttrFullRemoteURL:
			o.remote = withTransport(value)
		case pb.AttrKeepGitDir:
			o.keepGitDir = value == "true"
		case pb.AttrGitSkipSubmodules:
			o.noSubmodules = value == "true"
		case pb.AttrGitFetchByCommit:
			o.fetchByCommit = value == "true"
		case pb.AttrGitChecksum:
			o.checksum = value
		case pb.AttrGitMTime:
			o.mtime = strings.TrimPrefix(value, "checkout")
		case pb.AttrAuthHeaderSecret:
			o.header = value
		case pb.AttrAuthTokenSecret:
			o.token = value
		case pb.AttrMountSSHSock:
			o.ssh = value
		case pb.AttrKnownSSHHosts:
			o.knownHosts = value
		case pb.AttrGitAdvice:
			o.advice = value == "true"
		default:
			return nil, fmt.Errorf("attribute %s of the git repository %s: %w", name, redact(o.remote), errdefs.ErrNotImplemented)
		}
	}
	return o, o.check()
}

// withTransport gives a URL without a scheme one; git@host:path is ssh already.
func withTransport(remote string) string {
	host, _, colon := strings.Cut(remote, ":")
	if strings.Contains(remote, "://") || colon && strings.Contains(host, "@") && !strings.Contains(host, "/") {
		return remote
	}
	return "https://" + remote
}

// check refuses what git could take for an option (CVE-2019-13139).
func (o *gitOp) check() error {
	if scheme, _, ok := strings.Cut(o.remote, "://"); ok {
		switch scheme {
		case "http", "https", "ssh", "git":
		default:
			return fmt.Errorf("git over %s: %w", scheme, errdefs.ErrInvalidArgument)
		}
	}
	if strings.HasPrefix(o.remote, "-") || strings.ContainsFunc(o.remote+o.ref, func(r rune) bool { return r < ' ' }) {
		return fmt.Errorf("the git repository %q: %w", redact(o.remote), errdefs.ErrInvalidArgument)
	}
	if strings.HasPrefix(o.ref, "-") || strings.ContainsAny(o.ref, " :^~?*[\\") {
		return fmt.Errorf("the git ref %q: %w", o.ref, errdefs.ErrInvalidArgument)
	}
	if strings.Trim(o.checksum, "0123456789abcdefABCDEF") != "" {
		return fmt.Errorf("the checksum %q of a git repository is no commit: %w", o.checksum, errdefs.ErrInvalidArgument)
	}
	return nil
}

func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// Key implements solver.Op: the commit that the ref stands for now, and what is made of it.
func (o *gitOp) Key(ctx context.Context) (solver.Key, error) {
	if err := o.resolve(ctx); err != nil {
		return solver.Key{}, fmt.Errorf("git repository %s: %w", redact(o.remote), err)
	}
	key := o.commit
	if o.tagged != "" && !o.keepGitDir {
		key = o.tagged // a tag and a branch of one commit have one key
	}
	if o.keepGitDir {
		key += ".git#" + o.resolvedRef
	}
	if o.subdir != "" {
		key += ":" + o.subdir
	}
	if o.noSubmodules {
		key += "(skip-submodules)"
	}
	if o.mtime != "" {
		key += "(mtime=" + o.mtime + ")"
	}
	return solver.Key{Digest: sourceKey(key)}, nil
}

// ContentKeys implements solver.Op.
func (o *gitOp) ContentKeys(context.Context, *solver.Console, []Result) ([]digest.Digest, error) {
	return nil, nil
}

// Run implements solver.Op.
func (o *gitOp) Run(ctx context.Context, c *solver.Console, _ []Result) (_ []Result, err error) {
	wrap := func(err error) error { return fmt.Errorf("git repository %s: %w", redact(o.remote), err) }
	if o.commit == "" {
		if err := o.resolve(ctx); err != nil {
			return nil, wrap(err)
		}
	}
	m, err := o.env.prepare(ctx, c, Result{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.discard(ctx)) }()
	repo, err := o.open(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	defer func() { err = errors.Join(err, repo.close()) }()
	repo.log = c.Stderr()
	if err := o.fetch(ctx, repo); err != nil {
		return nil, wrap(err)
	}
	if err := o.checkout(ctx, repo, m.snap.Upper); err != nil {
		return nil, wrap(err)
	}
	r, err := m.commit(ctx)
	return []Result{r}, err
}

// describe fetches the commit and returns it.
func (o *gitOp) describe(ctx context.Context) (_ SourceInfo, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("git repository %s: %w", redact(o.remote), err)
		}
	}()
	if err := o.resolve(ctx); err != nil {
		return SourceInfo{}, err
	}
	repo, err := o.open(ctx)
	if err != nil {
		return SourceInfo{}, err
	}
	defer func() { err = errors.Join(err, repo.close()) }()
	if err := o.fetch(ctx, repo); err != nil {
		return SourceInfo{}, err
	}
	commit := o.commit
	if o.tagged != "" {
		commit = o.tagged
	}
	object, err := repo.raw(ctx, "cat-file", "commit", commit)
	info := SourceInfo{Ref: o.resolvedRef, Commit: o.commit, Tagged: o.tagged, Object: []byte(object)}
	if err == nil && o.tagged != "" {
		var tag string
		tag, err = repo.raw(ctx, "cat-file", "tag", o.commit)
		info.Tag = []byte(tag)
	}
	return info, err
}

// checkout puts the files of the commit into dir.
func (o *gitOp) checkout(ctx context.Context, repo *gitRepo, dir string) (err error) {
	sub := strings.TrimPrefix(path.Join("/", o.subdir), "/")
	tree := dir
	if sub != "" {
		scratch, err := statefile.NewScratch(filepath.Join(o.env.Dir, "git", "tmp"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, scratch.Close()) }()
		tree = filepath.Join(scratch.Path(), "tree")
		if err := os.Mkdir(tree, 0o755); err != nil {
			return err
		}
	}
	work := *repo
	work.tree = tree
	if o.keepGitDir && sub == "" {
		if err := o.checkoutRepo(ctx, repo, &work); err != nil {
			return err
		}
	} else if _, err := work.git(ctx, "checkout", "--no-overlay", o.commit, "--", "."); err != nil {
		return err
	}
	if !o.noSubmodules {
		if _, err := work.git(ctx, "submodule", "update", "--init", "--recursive", "--depth=1"); err != nil {
			return err
		}
		if work.dir == repo.dir {
			if err := removeGitLinks(tree); err != nil {
				return err
			}
		}
	}
	if sub != "" {
		if err := moveSubdir(tree, sub, dir); err != nil {
			return err
		}
	}
	if o.mtime == "commit" {
		return o.commitTimes(ctx, repo, dir)
	}
	return nil
}

// checkoutRepo makes a repository of its own in work.tree, with the one commit.
func (o *gitOp) checkoutRepo(ctx context.Context, repo, work *gitRepo) error {
	work.dir = filepath.Join(work.tree, ".git")
	format := "--object-format=sha1"
	if len(o.commit) == 64 {
		format = "--object-format=sha256"
	}
	pull, err := o.pullRef(ctx, repo)
	if err != nil {
		return err
	}
	steps := [][]string{
		{"-c", "init.defaultBranch=master", "init", format},
		{"remote", "add", "origin", "file://" + repo.dir},
		{"-c", "protocol.file.allow=always", "fetch", "-u", "--depth=1", "--", "origin", pull},
		{"checkout", "FETCH_HEAD"},
		{"remote", "set-url", "origin", redact(o.remote)},
		{"reflog", "expire", "--all", "--expire=now"},
	}
	for _, args := range steps {
		if _, err := work.git(ctx, args...); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(work.dir, "FETCH_HEAD")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// pullRef names in the shared repository what the one that is kept will have.
func (o *gitOp) pullRef(ctx context.Context, repo *gitRepo) (string, error) {
	kind, err := repo.git(ctx, "cat-file", "-t", o.commit)
	if err != nil {
		return "", err
	}
	switch {
	case kind == "tag":
		return o.ref + ":refs/tags/" + strings.TrimPrefix(o.ref, "refs/tags/"), nil
	case isCommit(o.ref) || o.fetchByCommit:
		const name = "refs/teu/commit"
		_, err := repo.git(ctx, "update-ref", name, o.commit)
		return name, err
	}
	return o.ref + ":" + o.ref, nil
}

// removeGitLinks removes the files .git of submodules: they name a directory of this machine. No
// commit can have a file of this name.
func removeGitLinks(tree string) error {
	return filepath.WalkDir(tree, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == ".git" && d.Type().IsRegular() {
			err = os.Remove(p)
		}
		return err
	})
}

// moveSubdir moves what is in the directory sub of tree to dir. No component may be a link: the
// repository would choose what is read (CVE-2026-33748).
func moveSubdir(tree, sub, dir string) error {
	root, err := rootfs.Open(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	fd, err := unix.Openat2(root.Fd(), sub, &how)
	if err != nil {
		return fmt.Errorf("directory %s: %w: %w", sub, err, errdefs.ErrNotFound)
	}
	from := os.NewFile(uintptr(fd), sub)
	defer from.Close()
	names, err := from.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := unix.Renameat(fd, name, unix.AT_FDCWD, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("moving %s: %w", name, err)
		}
	}
	return nil
}

// commitTimes gives every file in dir the time of the commit.
func (o *gitOp) commitTimes(ctx context.Context, repo *gitRepo, dir string) error {
	text, err := repo.git(ctx, "log", "-1", "--format=%ct", o.commit+"^{commit}")
	if err != nil {
		return err
	}
	sec, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fmt.Errorf("time of the commit: %w", err)
	}
	var list []string
	err = filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		list = append(list, p)
		return err
	})
	for i := len(list) - 1; i >= 0 && err == nil; i-- {
		err = setTimes(unix.AT_FDCWD, list[i], time.Unix(sec, 0))
	}
	return err
}
