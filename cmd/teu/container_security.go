package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/spec"
)

// readProfile returns a seccomp profile without its white space.
func readProfile(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile (%s): %w", file, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return "", fmt.Errorf("seccomp profile (%s): %w", file, err)
	}
	return compact.String(), nil
}

func (c *containerFlags) setSecurity(o *runner.Options) error {
	var opts []string
	for _, opt := range c.sopt {
		k, v, ok := strings.Cut(opt, "=")
		if !ok {
			k, v, _ = strings.Cut(opt, ":")
		}
		switch {
		case opt == "systempaths=unconfined":
			o.OpenPaths = true
			continue
		case v == "" && k != "no-new-privileges" && k != "writable-cgroups":
			return fmt.Errorf("invalid --security-opt: %q", opt)
		case k == "seccomp" && v != "unconfined" && v != "builtin":
			profile, err := readProfile(v)
			if err != nil {
				return err
			}
			opt = "seccomp=" + profile
		}
		opts = append(opts, opt)
	}
	if err := o.SetSecurity(opts); err != nil {
		return err
	}
	for _, text := range c.devices {
		if isCDIName(text) {
			o.CDIDevices = append(o.CDIDevices, text)
			continue
		}
		parts := strings.Split(text, ":")
		d := spec.Device{Source: parts[0], Target: parts[0], Access: "rwm"}
		switch {
		case len(parts) == 3:
			d.Target, d.Access = parts[1], parts[2]
		case len(parts) == 2 && strings.HasPrefix(parts[1], "/"):
			d.Target = parts[1]
		case len(parts) == 2:
			d.Access = parts[1]
		}
		if len(parts) > 3 || strings.Trim(d.Access, "rwm") != "" {
			return fmt.Errorf("invalid device specification: %s", text)
		}
		o.Devices = append(o.Devices, d)
	}
	o.Sysctls = keyValues(c.sysctls)
	return c.setDeviceRules(o)
}

// isCDIName says whether a device is named as in the files of the Container Device Interface, and not by its path.
func isCDIName(device string) bool {
	kind, _, ok := strings.Cut(device, "=")
	return ok && strings.Contains(kind, "/") && kind[0] != '/'
}
