package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/archive"
)

// cpFlags are the flags of cp.
type cpFlags struct{ archive, followLink, quiet bool }

func newCpCommand(a *app) *cobra.Command {
	var f cpFlags
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n  teu cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
		Short: "Copy files between a container and the host",
		Example: `  teu cp web:/var/log/app.log .
  teu cp ./site/. web:/srv/www
  teu cp web:/etc - | tar tv`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("quiet") {
				f.quiet = !a.ui.OutTerminal()
			}
			from, src := splitCopy(args[0])
			to, dst := splitCopy(args[1])
			switch {
			case from != "" && to != "":
				return errors.New("copying between containers is not supported")
			case from != "":
				return copyOut(cmd.Context(), a, f, from, src, dst)
			case to != "":
				return copyIn(cmd.Context(), a, f, src, to, dst)
			}
			return errors.New("must specify at least one container source")
		},
	}
	cmd.Flags().BoolVarP(&f.archive, "archive", "a", false, "keep users and groups")
	cmd.Flags().BoolVarP(&f.followLink, "follow-link", "L", false, "follow a symbolic link that is the source")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "say nothing of success, as where standard output is no terminal")
	return cmd
}

// splitCopy separates a container from a path. What begins with a slash or a dot is a
// path of the host.
func splitCopy(arg string) (container, p string) {
	if filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") {
		return "", arg
	}
	before, after, ok := strings.Cut(arg, ":")
	if !ok {
		return "", arg
	}
	return before, after
}

// target says where something is to be unpacked, and under which name. An empty name
// keeps that of the source.
type target struct{ dir, name string }

// copyTarget is docker's rule (docker container cp, "Description"). stat looks at the
// destination and tells where it is if it is a link, which stays; a missing one is an fs.ErrNotExist.
func copyTarget(src string, srcDir bool, dst string, stat func(p string) (at string, mode fs.FileMode, err error)) (target, error) {
	dst, mode, err := stat(dst)
	switch {
	case err == nil && mode.IsDir():
		if srcDir && isContent(src) {
			return target{dst, "."}, nil
		}
		return target{dir: dst}, nil
	case err == nil && srcDir:
		return target{}, errors.New("cannot copy directory")
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return target{}, err
	case strings.HasSuffix(dst, "/") && (err == nil || !srcDir):
		return target{}, errors.New("no such directory")
	}
	dst = strings.TrimSuffix(dst, "/")
	dir := path.Dir(dst)
	if err != nil {
		if _, mode, err := stat(dir); err != nil {
			return target{}, err
		} else if !mode.IsDir() {
			return target{}, errors.New("not a directory")
		}
	}
	return target{dir, path.Base(dst)}, nil
}

// isContent says whether a source means what is in a directory and not the directory.
func isContent(src string) bool { return src == "." || strings.HasSuffix(src, "/.") }

// copyOut copies from a container.
func copyOut(ctx context.Context, a *app, f cpFlags, ref, src, dst string) error {
	if src == "" {
		return errors.New("bad parameter: path cannot be empty")
	}
	e := a.engine()
	name := "" // the source's
	if f.followLink {
		if st, err := e.StatPath(ctx, ref, src); err == nil && st.Mode&fs.ModeSymlink != 0 {
			src, name = st.LinkTarget, path.Base(src)
		}
	}
	r, st, err := e.CopyFrom(ctx, ref, src)
	if err != nil {
		return err
	}
	defer r.Close()
	if dst == "-" {
		if a.ui.OutTerminal() {
			return errors.New("cowardly refusing to copy to a terminal: redirect the archive")
		}
		_, err := io.Copy(a.ui.Out, r)
		return err
	}
	if err := checkOutput(dst); err != nil {
		return err
	}
	t, err := copyTarget(src, st.Mode.IsDir(), dst, hostMode)
	if err != nil {
		return err
	}
	o := archive.ExtractOptions{NoOverwriteDirNonDir: true}
	if !f.archive {
		// A program of the container must not become one that runs as us.
		o.Owner, o.Harmless = &archive.Owner{UID: os.Getuid(), GID: os.Getgid()}, true
	}
	root, err := rootfs.Open(t.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	n, err := pipeRenamed(r, st.Name, cmp.Or(t.name, name), func(r io.Reader) error { return archive.Extract(ctx, root, "/", r, o) })
	if err != nil {
		return err
	}
	copied(a, f, n, dst)
	return nil
}

// checkOutput refuses a place in no directory, and devices: a file would take the place of /dev/null (docker/cli
// cli/command, ValidateOutputPath).
func checkOutput(p string) error {
	dir := filepath.Dir(filepath.Clean(p))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("invalid output path: directory %q does not exist", dir)
	}
	if fi, err := os.Stat(p); err == nil && fi.Mode()&fs.ModeDevice != 0 {
		return fmt.Errorf("invalid output path: %q must be a directory or a regular file: got a device", p)
	}
	return nil
}

// copyIn copies into a container.
func copyIn(ctx context.Context, a *app, f cpFlags, src, ref, dst string) error {
	e := a.engine()
	o := runner.CopyToOptions{NoOverwriteDirNonDir: true, CopyUIDGID: f.archive}
	if dst == "" {
		return errors.New("destination path must not be empty")
	}
	if src == "-" {
		if _, mode, err := containerMode(ctx, e, ref, dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		} else if !mode.IsDir() {
			return fmt.Errorf("destination \"%s:%s\" must be a directory", ref, dst)
		}
		return e.CopyTo(ctx, ref, dst, a.ui.In, o)
	}
	srcPath, err := filepath.Abs(src)
	if err != nil {
		return err
	}
	name := filepath.Base(srcPath)
	if f.followLink {
		if srcPath, err = filepath.EvalSymlinks(srcPath); err != nil {
			return err
		}
	}
	stat := os.Lstat
	if strings.HasSuffix(src, "/") || isContent(src) {
		stat, srcPath = os.Stat, srcPath+"/."
	}
	fi, err := stat(srcPath)
	if err != nil {
		return err
	}
	t, err := copyTarget(src, fi.IsDir(), dst, func(p string) (string, fs.FileMode, error) { return containerMode(ctx, e, ref, p) })
	if err != nil {
		return err
	}
	host, err := rootfs.Open("/")
	if err != nil {
		return err
	}
	defer host.Close()
	name = cmp.Or(t.name, name)
	r, w := io.Pipe()
	done := make(chan error, 1)
	counted := &countingReader{r: r}
	go func() {
		err := archive.Write(ctx, w, host, srcPath, name, archive.WriteOptions{})
		w.CloseWithError(err)
		done <- err
	}()
	err = e.CopyTo(ctx, ref, t.dir, counted, o)
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
	if written := <-done; err == nil && written != nil {
		err = written
	}
	if err != nil {
		return err
	}
	copied(a, f, counted.n, ref+":"+dst)
	return nil
}

// maxLinks is how many links of the host are followed, as by Linux.
const maxLinks = 40

// hostMode looks at a file of the host and follows it if it is a link, also one that leads nowhere yet.
func hostMode(p string) (at string, mode fs.FileMode, err error) {
	for range maxLinks {
		fi, err := os.Lstat(p)
		if err != nil || fi.Mode()&fs.ModeSymlink == 0 {
			if err == nil {
				mode = fi.Mode()
			}
			return p, mode, err
		}
		to, err := os.Readlink(p)
		if err != nil {
			return p, 0, err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(p), to)
		}
		p = to
	}
	return p, 0, &fs.PathError{Op: "stat", Path: p, Err: syscall.ELOOP}
}

// containerMode looks at a file of a container and follows it if it is a link.
func containerMode(ctx context.Context, e *runner.Engine, ref, p string) (at string, mode fs.FileMode, err error) {
	st, err := e.StatPath(ctx, ref, p)
	if err == nil && st.Mode&fs.ModeSymlink != 0 {
		p = st.LinkTarget
		st, err = e.StatPath(ctx, ref, p)
	}
	if errors.Is(err, errdefs.ErrNotFound) && strings.Contains(err.Error(), "Could not find the file") {
		return p, 0, &missingFile{err}
	}
	return p, st.Mode, err
}

// missingFile is an fs.ErrNotExist in the engine's words.
type missingFile struct{ error }

func (e *missingFile) Unwrap() []error { return []error{e.error, fs.ErrNotExist} }

// pipeRenamed passes an archive on under another name and counts its bytes.
func pipeRenamed(r io.Reader, from, to string, use func(io.Reader) error) (int64, error) {
	counted := &countingReader{r: r}
	if to == "" {
		return counted.n, errors.Join(use(counted))
	}
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(archive.Rename(pw, counted, from, to))
	}()
	err := use(pr)
	pr.CloseWithError(io.ErrClosedPipe)
	<-done
	return counted.n, err
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func copied(a *app, f cpFlags, n int64, to string) {
	if !f.quiet {
		fmt.Fprintf(a.ui.Err, "Successfully copied %s to %s\n", units.HumanSize(float64(n)), to)
	}
}
