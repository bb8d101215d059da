package oci

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/selinux"
	"github.com/teu-dev/teu/runner/spec"
)

// checkLabels refuses labels this host would not enforce: to leave them out silently would
// be to run the process without the protection that was asked for.
func checkLabels(p *specs.Process) error {
	if a := p.ApparmorProfile; a != "" && a != "unconfined" && !spec.AppArmorEnabled() {
		return fmt.Errorf("AppArmor profile %s: AppArmor is not enabled on this host: %w", a, errdefs.ErrNotImplemented)
	}
	return checkLabel("SELinux label", p.SelinuxLabel)
}

// checkLabel refuses a label that this host does not have.
func checkLabel(what, label string) error {
	if label == "" {
		return nil
	}
	if !selinux.Enabled() {
		return fmt.Errorf("%s %s: SELinux is not enabled on this host: %w", what, label, errdefs.ErrNotImplemented)
	}
	if err := selinux.Check(label); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// labelled are the options of a filesystem that is made for the container, with the label
// that all of its files are to have.
func (c *compiler) labelled(options []string) []string {
	if l := c.spec.Linux.MountLabel; l != "" {
		return append(options[:len(options):len(options)], "context="+l)
	}
	return options
}

// labelRoot labels the root of a mount without a place whose kind has no such option: a message
// queue's would be one for all who mount it.
func (c *compiler) labelRoot(fd launch.Ref) {
	l := c.spec.Linux.MountLabel
	if l == "" {
		return
	}
	top := c.Call(unix.SYS_OPENAT, launch.Result(fd), c.Str("."), launch.Int(unix.O_RDONLY|unix.O_DIRECTORY|cloexec), launch.Int(0))
	c.Call(unix.SYS_FSETXATTR, launch.Result(top), c.Str(selinux.Attribute), c.Str(l), launch.Int(len(l)), launch.Int(0))
	c.Call(unix.SYS_CLOSE, launch.Result(top))
}

// quoted is the label as an option for mount(2), in whose list it is one of many: it may have commas.
func quoted(option string) string {
	key, value, _ := strings.Cut(option, "=")
	return key + `="` + value + `"`
}

// labelKeys gives keys that the process makes the label of its command, which else could not use them.
func (c *compiler) labelKeys() {
	if l := c.process.SelinuxLabel; l != "" {
		c.writeProc("thread-self/attr/keycreate", l)
	}
}
