package oci

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/spec"
)

// checkLabels refuses labels this host would not enforce: to leave them out silently would
// be to run the process without the protection that was asked for.
func checkLabels(p *specs.Process) error {
	if a := p.ApparmorProfile; a != "" && a != "unconfined" && !spec.AppArmorEnabled() {
		return fmt.Errorf("AppArmor profile %s: AppArmor is not enabled on this host: %w", a, errdefs.ErrNotImplemented)
	}
	if l := p.SelinuxLabel; l != "" && !selinux() {
		return fmt.Errorf("SELinux label %s: SELinux is not enabled on this host: %w", l, errdefs.ErrNotImplemented)
	}
	return nil
}

func selinux() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}
