package op

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// resolve finds out which commit the ref is.
func (o *gitOp) resolve(ctx context.Context) (err error) {
	switch {
	case isCommit(o.ref):
		if !strings.HasPrefix(o.ref, o.checksum) {
			return o.mismatch(o.ref)
		}
		o.resolvedRef, o.commit = o.ref, o.ref
		return nil
	case o.fetchByCommit:
		return o.resolveByCommit()
	}
	// One build sees one state of a repository: what is told of a source is what is then built, with whichever of
	// the build's credentials it is asked for.
	key := fmt.Sprintf("%q %q", o.remote, o.ref)
	refs, err := o.env.refs.get(key, func() (gitRefs, error) { return o.ask(ctx) })
	if err != nil {
		return err
	}
	o.ref = refs.ref
	return o.choose(refs.out)
}

// gitRefs are what a repository has for a ref.
type gitRefs struct {
	ref string // the default branch, if none was named
	out string // of ls-remote
}

// ask asks the repository what it has for the ref.
func (o *gitOp) ask(ctx context.Context) (refs gitRefs, err error) {
	r, err := o.session(ctx)
	if err != nil {
		return refs, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	refs.ref = o.ref
	if refs.ref == "" {
		if refs.ref, err = defaultBranch(ctx, r, o.remote); err != nil {
			return refs, err
		}
	}
	refs.out, err = r.git(ctx, "ls-remote", "--", o.remote, refs.ref, refs.ref+"^{}")
	return refs, err
}

func (o *gitOp) resolveByCommit() error {
	if !isCommit(o.checksum) {
		return fmt.Errorf("fetching by commit needs a whole commit as checksum, not %q: %w", o.checksum, errdefs.ErrInvalidArgument)
	}
	o.resolvedRef, o.commit = o.ref, o.checksum
	switch {
	case o.ref == "":
		o.ref, o.resolvedRef = o.checksum, o.checksum
	case !strings.HasPrefix(o.ref, "refs/"):
		o.ref = "refs/heads/" + o.ref
		o.resolvedRef = o.ref
	}
	return nil
}

func defaultBranch(ctx context.Context, r *gitRepo, remote string) (string, error) {
	out, err := r.git(ctx, "ls-remote", "--symref", "--", remote, "HEAD")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if ref, ok := strings.CutPrefix(line, "ref: refs/heads/"); ok {
			if ref, _, ok := strings.Cut(ref, "\t"); ok && !strings.HasPrefix(ref, "-") {
				return ref, nil
			}
		}
	}
	return "", fmt.Errorf("its default branch: %w", errdefs.ErrNotFound)
}

// choose takes the ref that is meant from what ls-remote says: a whole name, else a branch, else a tag.
func (o *gitOp) choose(out string) error {
	found := map[string]string{}
	for line := range strings.Lines(out) {
		sha, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if isCommit(sha) {
			found[name] = sha
		}
	}
	tag := "refs/tags/" + strings.TrimPrefix(o.ref, "refs/tags/")
	for _, name := range []string{
		"refs/" + strings.TrimPrefix(o.ref, "refs/"),
		"refs/heads/" + strings.TrimPrefix(o.ref, "refs/heads/"),
		tag,
	} {
		if found[name] == "" {
			continue
		}
		o.resolvedRef, o.commit = name, found[name]
		if name == tag {
			o.tagged = found[tag+"^{}"]
		}
		if !strings.HasPrefix(o.commit, o.checksum) && (o.tagged == "" || !strings.HasPrefix(o.tagged, o.checksum)) {
			return o.mismatch(o.commit)
		}
		return nil
	}
	return fmt.Errorf("repository does not contain ref %s: %w", o.ref, errdefs.ErrNotFound)
}

func (o *gitOp) mismatch(got string) error {
	return fmt.Errorf("expected checksum to match %s, but %s is %s: %w", o.checksum, o.ref, got, errdefs.ErrDataLoss)
}

// fetch brings the commit, unless it is there.
func (o *gitOp) fetch(ctx context.Context, r *gitRepo) error {
	if o.has(ctx, r) && (isCommit(o.ref) || !o.keepGitDir) {
		return nil
	}
	// A process that was killed leaves its locks; nobody else is at work here.
	for _, name := range []string{"shallow.lock", "index.lock", "packed-refs.lock"} {
		if err := os.Remove(filepath.Join(r.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	err := o.fetchRef(ctx, r)
	if err != nil && ctx.Err() == nil && !isCommit(o.ref) {
		// The names of old refs may be in the way of new ones.
		if err := o.init(ctx, r); err != nil {
			return err
		}
		err = o.fetchRef(ctx, r)
	}
	if err != nil {
		return err
	}
	if o.has(ctx, r) {
		return nil
	}
	if err := o.fetchCommit(ctx, r); err != nil { // the ref went on since it was resolved
		return err
	}
	if !o.has(ctx, r) {
		return fmt.Errorf("commit %s: %w", o.commit, errdefs.ErrNotFound)
	}
	return nil
}

func (o *gitOp) has(ctx context.Context, r *gitRepo) bool {
	quiet := *r
	quiet.log = nil
	_, err := quiet.git(ctx, "cat-file", "-e", o.commit+"^{commit}")
	return err == nil
}

func (o *gitOp) fetchRef(ctx context.Context, r *gitRepo) error {
	if isCommit(o.ref) {
		return o.fetchCommit(ctx, r)
	}
	_, err := r.git(ctx, "fetch", "--depth=1", "--no-tags", "origin", "--force", "--", o.refspec())
	return err
}

func (o *gitOp) refspec() string {
	if o.fetchByCommit {
		return o.commit
	}
	target := o.ref
	if !strings.HasPrefix(target, "refs/tags/") {
		target = "tags/" + target
	}
	return o.ref + ":" + target
}

// fetchCommit fetches the commit by its name, or, where the server does not give that, everything.
func (o *gitOp) fetchCommit(ctx context.Context, r *gitRepo) error {
	if _, err := r.git(ctx, "fetch", "--depth=1", "--no-tags", "origin", o.commit); err == nil {
		return nil
	}
	args := []string{"fetch", "--tags", "--force"}
	if _, err := os.Stat(filepath.Join(r.dir, "shallow")); err == nil {
		args = append(args, "--unshallow")
	}
	_, err := r.git(ctx, append(args, "origin", "+refs/heads/*:refs/remotes/origin/*")...)
	return err
}
