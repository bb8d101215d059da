package build

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/provenance"
)

// A Repository is the git repository that a context is in.
type Repository struct {
	Root     string // directory
	Revision string // the commit, with "-dirty" behind it if files are not as committed; "" if there is none
	Source   string // URL it comes from, without the secrets in it, or ""
}

// FindRepository returns the repository of a directory, nil if it is in none. Where that is worth a question
// to all its files, changes looks for some that were not committed.
func FindRepository(ctx context.Context, dir string, changes bool) (*Repository, error) {
	root, err := git(ctx, dir, "rev-parse", "--show-toplevel")
	if err != nil {
		if _, e := os.Lstat(filepath.Join(dir, ".git")); e == nil {
			return nil, fmt.Errorf("the commit of the build context: %w", err) // git will not say why it is none
		}
		return nil, ctx.Err()
	}
	r := &Repository{Root: root}
	if r.Revision, err = git(ctx, dir, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err != nil {
		r.Revision = "" // nothing was committed yet
	}
	if changes && r.Revision != "" {
		if changed, err := git(ctx, dir, "status", "--porcelain", "--ignored"); changed != "" || err != nil {
			r.Revision += "-dirty"
		}
	}
	r.Source = provenance.Redact(remoteURL(ctx, dir))
	return r, ctx.Err()
}

// remoteURL returns where the present branch comes from, else the URL of origin or of upstream.
func remoteURL(ctx context.Context, dir string) string {
	names := []string{"origin", "upstream"}
	if branch, err := git(ctx, dir, "symbolic-ref", "--quiet", "HEAD"); err == nil {
		if name, err := git(ctx, dir, "for-each-ref", "--format=%(upstream:remotename)", branch); err == nil && name != "" {
			names = append([]string{name}, names...)
		}
	}
	for _, name := range names {
		if url, err := git(ctx, dir, "remote", "get-url", "--", name); err == nil && url != "" {
			return url
		}
	}
	return ""
}

// git returns the first line that git says in a directory. The program that a repository may name to look for
// changes is not run.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.fsmonitor=false"}, args...)...)
	cmd.Dir = dir
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
}

// within returns where a file is in the repository, with slashes.
func (r *Repository) within(file string) (name string, ok bool) {
	file, err := filepath.Abs(file)
	if err != nil {
		return "", false
	}
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	name, err = filepath.Rel(r.Root, file)
	return name, err == nil && filepath.IsLocal(name)
}

// labelDockerfile is buildx's label of where in its repository a Dockerfile is.
const labelDockerfile = "com.docker.image.source.entrypoint"

// Label adds labels of the repository, by the names of docker buildx with BUILDX_GIT_LABELS.
func (r *Repository) Label(o *Options) {
	labels := map[string]string{ocispec.AnnotationRevision: r.Revision, ocispec.AnnotationSource: r.Source}
	if name, ok := r.within(o.DockerfilePath()); ok {
		labels[labelDockerfile] = name
	}
	maps.DeleteFunc(labels, func(_, value string) bool { return value == "" })
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	maps.Copy(o.Labels, labels)
}

// attrs are the options of the frontend that provenance takes it from, as buildx sends them; locals are the
// directories of the build, by name.
func (r *Repository) attrs(locals map[string]string) map[string]string {
	attrs := map[string]string{"vcs:revision": r.Revision, "vcs:source": r.Source}
	for name, dir := range locals {
		if within, ok := r.within(dir); ok {
			attrs["vcs:localdir:"+name] = within
		}
	}
	maps.DeleteFunc(attrs, func(_, value string) bool { return value == "" })
	return attrs
}
