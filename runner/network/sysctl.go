package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// sysctlsOpt lists kernel parameters of an endpoint's interface, separated by commas:
// net.ipv4.conf.IFNAME.log_martians=1.
const sysctlsOpt = "com.docker.network.endpoint.sysctls"

// sysctl is one kernel parameter of an interface.
type sysctl struct{ family, table, name, value string }

// sysctls are the kernel parameters that o wishes for. What is not of one interface is refused:
// it would be the namespace's, if not the host's.
func (o EndpointOptions) sysctls() (list []sysctl, err error) {
	text, ok := o.DriverOpts[sysctlsOpt]
	if !ok {
		return nil, nil
	}
	for one := range strings.SplitSeq(text, ",") {
		key, value, found := strings.Cut(one, "=")
		part := strings.Split(key, ".")
		if len(part) != 5 || part[0] != "net" || !slices.Contains([]string{"ipv4", "ipv6", "mpls"}, part[1]) ||
			part[3] != "IFNAME" && part[3] != "ifname" || !plain(part[2]) || !plain(part[4]) {
			return nil, worded(errdefs.ErrInvalidArgument, "unrecognised network interface sysctl '%s'; "+
				"represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'", one)
		}
		if !found {
			return nil, worded(errdefs.ErrInvalidArgument, "expected sysctl '%s' to have format name=value", one)
		}
		list = append(list, sysctl{part[1], part[2], part[4], value})
	}
	return list, nil
}

// plain says whether part is a name as the kernel's parameters have, and so no way elsewhere.
func plain(part string) bool {
	return part != "" && strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

// CheckDriverOpts refuses options of the driver that cannot be followed.
func (o EndpointOptions) CheckDriverOpts() error {
	_, err := o.sysctls()
	return err
}

// set sets the parameter of an interface of the current namespace. One that has its value is
// left alone, for /proc/sys may be read-only.
func (s sysctl) set(name string) error {
	path := filepath.Join("/proc/sys/net", s.family, s.table, name, s.name)
	now, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EISDIR) {
		return worded(errdefs.ErrInvalidArgument, "%s is not a sysctl file", path)
	}
	if err == nil && strings.TrimSpace(string(now)) == s.value {
		return nil
	}
	if err := os.WriteFile(path, []byte(s.value), 0); err != nil {
		return fmt.Errorf("sysctl net.%s.%s.%s.%s=%s: %w", s.family, s.table, name, s.name, s.value, err)
	}
	return nil
}
