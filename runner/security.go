package runner

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// SetSecurity reads docker's security options, which are KEY=VALUE or, as they once were,
// KEY:VALUE (moby daemon/daemon_unix.go, parseSecurityOpt). Of a seccomp profile the value
// is its text. Labels are looked at by label, where there is SELinux.
func (o *Options) SetSecurity(opts []string) error {
	o.SecurityOpt = opts
	for _, opt := range opts {
		k, v, ok := strings.Cut(opt, "=")
		if !ok {
			k, v, ok = strings.Cut(opt, ":")
		}
		if !ok && !slices.Contains([]string{"no-new-privileges", "writable-cgroups", "disable"}, opt) {
			return refused("invalid --security-opt 1: %q", opt)
		}
		switch k {
		case "no-new-privileges", "writable-cgroups":
			on, err := strconv.ParseBool(cmp.Or(v, "true"))
			if err != nil {
				return refused("invalid --security-opt 2: %q", opt)
			}
			if k == "writable-cgroups" {
				o.WritableCgroups = &on
			} else {
				o.NoNewPrivileges = on
			}
		case "seccomp":
			if o.Seccomp = v; v == "builtin" {
				o.Seccomp = ""
			}
		case "apparmor":
			o.AppArmor = v
		case "label", "disable":
		default:
			return refused("invalid --security-opt 2: %q", opt)
		}
	}
	return nil
}
