package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/dockerfile"
)

// mainContext finds the context and the Dockerfile, and tells frontend and operations.
func (r *run) mainContext(ctx context.Context, attrs map[string]string) error {
	if IsRemoteContext(r.o.Context) {
		attrs["context"] = r.o.Context
		if r.o.DockerfileText != nil {
			attrs["dockerfilekey"] = dockerfile.LocalDockerfile
			return r.writeDockerfile(attrs)
		}
		if r.o.Dockerfile != "" {
			attrs["filename"] = r.o.Dockerfile
		}
		return nil
	}
	if r.o.Caller != nil && r.o.Context == "" && r.o.ContextTar == nil {
		if r.o.Dockerfile != "" {
			attrs["filename"] = r.o.Dockerfile
		}
		return nil
	}
	dir, err := r.contextDir(ctx)
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	r.env.Locals[dockerfile.LocalContext] = dir
	if r.o.DockerfileText != nil {
		return r.writeDockerfile(attrs)
	}
	if r.o.ContextTar != nil {
		attrs["filename"], err = inContext(r.o.Dockerfile)
		r.env.Locals[dockerfile.LocalDockerfile] = dir
		return err
	}
	file, err := filepath.Abs(r.o.DockerfilePath())
	if err != nil {
		return err
	}
	if err := checkDir(filepath.Dir(file)); err != nil {
		return fmt.Errorf("directory of the Dockerfile: %w", err)
	}
	attrs["filename"] = filepath.Base(file)
	r.env.Locals[dockerfile.LocalDockerfile] = filepath.Dir(file)
	return nil
}

// inContext returns the path of a Dockerfile from the root of a context that came as a tar. What is on its way there
// is looked up in that tree: a link of the tar to a directory of this machine leads nowhere.
func inContext(file string) (string, error) {
	name := strings.TrimLeft(filepath.Clean(file), "/")
	switch {
	case file == "":
		return "Dockerfile", nil
	case !filepath.IsLocal(name):
		return "", fmt.Errorf("the Dockerfile %s is not in the build context: %w", file, errdefs.ErrInvalidArgument)
	}
	return name, nil
}

// contextDir returns the directory of the context, which it makes if there is none.
func (r *run) contextDir(ctx context.Context) (string, error) {
	if r.o.ContextTar == nil && (r.o.Context != "" || r.o.DockerfileText == nil) {
		return r.o.Context, checkDir(r.o.Context)
	}
	dir, err := r.tempDir("context")
	if err != nil || r.o.ContextTar == nil {
		return dir, err
	}
	plain, err := content.Decompress(ctx, r.o.ContextTar)
	if err != nil {
		return "", err
	}
	_, err = layer.Apply(ctx, dir, plain, layer.ApplyOptions{NoChown: true, Plain: true})
	return dir, errors.Join(err, plain.Close())
}

// writeDockerfile puts the Dockerfile that was given as text where the frontend finds it.
func (r *run) writeDockerfile(attrs map[string]string) error {
	dir, err := r.tempDir("dockerfile")
	if err != nil {
		return err
	}
	attrs["filename"] = "Dockerfile"
	r.env.Locals[dockerfile.LocalDockerfile] = dir
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), r.o.DockerfileText, 0o600)
}

// tempDir makes a directory on disk that is gone when the build ends.
func (r *run) tempDir(name string) (string, error) {
	if r.disk == nil {
		parent := filepath.Join(r.env.Dir, "tmp")
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return "", err
		}
		if err := statefile.SweepScratch(parent); err != nil {
			return "", err
		}
		disk, err := statefile.NewScratch(parent)
		if err != nil {
			return "", err
		}
		r.disk = disk
	}
	dir := filepath.Join(r.disk.Path(), name)
	return dir, os.Mkdir(dir, 0o755)
}
