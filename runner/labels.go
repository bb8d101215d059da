package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/selinux"
)

// label decides the SELinux labels of a new container: those that the policy of the host has for containers, as
// podman has it, with categories that no other container of this store has. Where there is no SELinux, or no
// container in its policy, nothing is labelled, as docker and podman have it too.
func (e *Engine) label(ctx context.Context, c *Container) error {
	process, file, err := selinux.Defaults()
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	values := c.Options.labelOptions()
	if len(values) == 0 {
		other, err := e.labelsFrom(ctx, &c.Options)
		if err != nil {
			return err
		}
		if other != nil {
			c.ProcessLabel, c.MountLabel = other.ProcessLabel, other.MountLabel
			return nil
		}
		if c.Options.Privileged || c.Options.PIDMode == "host" || c.Options.IPCMode == "host" { // what they are for is in reach then
			values = []string{"disable"}
		}
	}
	w, err := selinux.ParseWishes(values)
	if err != nil {
		return worded(errdefs.ErrInvalidArgument, "invalid --security-opt: %s", err)
	}
	var claim error
	c.ProcessLabel, c.MountLabel = w.Apply(process, file, func(level string) bool {
		var free bool
		free, claim = e.claimLevel(level, c.ID)
		return free || claim != nil
	})
	if claim != nil {
		return claim
	}
	for _, l := range []string{c.ProcessLabel, c.MountLabel} {
		if l == "" {
			continue
		}
		if err := selinux.Check(l); err != nil {
			return worded(errdefs.ErrInvalidArgument, "invalid --security-opt label: %s", err)
		}
	}
	return nil
}

// SELinuxSupported says that containers get labels of their own.
func SELinuxSupported() bool {
	_, _, err := selinux.Defaults()
	return err == nil
}

// labelOptions are the values of --security-opt label=VALUE.
func (o *Options) labelOptions() (values []string) {
	for _, opt := range o.SecurityOpt {
		if opt == "disable" {
			values = append(values, opt)
		}
		for _, prefix := range []string{"label=", "label:"} {
			if v, ok := strings.CutPrefix(opt, prefix); ok {
				values = append(values, v)
			}
		}
	}
	return values
}

// labelsFrom is the container whose namespace of processes or messages is shared: only with its labels are they in reach.
func (e *Engine) labelsFrom(ctx context.Context, o *Options) (*Container, error) {
	for _, mode := range []string{o.IPCMode, o.PIDMode} {
		if ref, ok := strings.CutPrefix(mode, "container:"); ok {
			return e.Get(ctx, ref)
		}
	}
	return nil, nil
}

// claimLevel gives a level to a container, if no other has it: a link of that name, which leads to the ID. That of a
// container that is gone is taken over.
func (e *Engine) claimLevel(level, id string) (bool, error) {
	if err := os.MkdirAll(e.levels(), 0o700); err != nil {
		return false, err
	}
	path := filepath.Join(e.levels(), level)
	err := os.Symlink(id, path)
	if !errors.Is(err, os.ErrExist) {
		return err == nil, err
	}
	if owner, err := os.Readlink(path); err == nil {
		if _, err := os.Stat(e.dir(owner)); errors.Is(err, os.ErrNotExist) {
			e.releaseLevel(level, owner)
		}
	}
	return false, nil
}

// releaseLevel gives a level back, if it is that container's.
func (e *Engine) releaseLevel(level, id string) {
	path := filepath.Join(e.levels(), level)
	if owner, err := os.Readlink(path); err == nil && owner == id {
		os.Remove(path)
	}
}

func (e *Engine) levels() string { return filepath.Join(e.Root, "levels") }

// unlabel gives the level of a container back that is removed.
func (e *Engine) unlabel(c *Container) {
	if l, err := selinux.Parse(c.MountLabel); err == nil && filepath.IsLocal(l.Level) {
		e.releaseLevel(l.Level, c.ID)
	}
}

// labelFile gives a file that teu made for a container its label.
func (c *Container) labelFile(path string) error {
	if c.MountLabel == "" {
		return nil
	}
	return selinux.SetFile(path, c.MountLabel)
}

// labelMounts labels what is mounted with the option z for all containers, with Z for this one, and volumes as with z.
func (c *Container) labelMounts() error {
	if c.MountLabel == "" {
		return nil
	}
	for _, p := range c.Mounts {
		if p.Type != "bind" && p.Type != "volume" {
			continue
		}
		options := strings.Split(p.Mode, ",")
		label := selinux.Shared(c.MountLabel)
		switch {
		case slices.Contains(options, "Z"):
			label = c.MountLabel
		case p.Type == "volume", slices.Contains(options, "z"):
		default:
			continue
		}
		if err := selinux.Relabel(p.Source, label); err != nil {
			return fmt.Errorf("labelling %s: %w", p.Source, err)
		}
	}
	return nil
}
