package runner

import (
	"fmt"
	"net/netip"
	"path"
	"strings"

	"github.com/teu-dev/teu/runner/spec"
)

// checkProcess refuses a process that cannot be.
func (o *Options) checkProcess() error {
	if w := o.WorkingDir; w != "" && !path.IsAbs(w) {
		return refused("the working directory '%s' is invalid, it needs to be an absolute path", w)
	}
	if err := spec.CheckCapabilities(o.CapAdd); err != nil {
		return fmt.Errorf("invalid CapAdd: %w", err)
	}
	if err := spec.CheckCapabilities(o.CapDrop); err != nil {
		return fmt.Errorf("invalid CapDrop: %w", err)
	}
	for _, host := range o.ExtraHosts {
		if err := CheckExtraHost(host); err != nil {
			return err
		}
	}
	return nil
}

// CheckExtraHost refuses a line for /etc/hosts that is not NAME:ADDRESS or NAME:host-gateway.
func CheckExtraHost(text string) error {
	name, address, ok := strings.Cut(text, ":")
	if !ok || name == "" {
		return refused("bad format for add-host: %q", text)
	}
	if _, err := netip.ParseAddr(address); err != nil && address != "host-gateway" {
		return refused("invalid IP address in add-host: %q", address)
	}
	return nil
}
