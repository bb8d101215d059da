package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/spec"
)

// readProfile returns a seccomp profile without its white space.
func readProfile(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("opening seccomp profile (%s) failed: %w", file, err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return "", fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", file, err)
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
		case v == "" && k != "no-new-privileges":
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
	for _, request := range c.gpus {
		names, err := request.Devices()
		if err != nil {
			return engineError{err}
		}
		o.CDIDevices = append(o.CDIDevices, names...)
	}
	for _, text := range c.devices {
		if isCDIName(text) {
			o.CDIDevices = append(o.CDIDevices, text)
			continue
		}
		if err := checkDevice(text); err != nil {
			return err
		}
		parts := strings.Split(text, ":")
		d := spec.Device{Source: parts[0], Target: parts[0], Access: "rwm"}
		switch {
		case len(parts) == 3:
			d.Target, d.Access = parts[1], parts[2]
		case len(parts) == 2 && isDeviceMode(parts[1]):
			d.Access = parts[1]
		case len(parts) == 2:
			d.Target = parts[1]
		}
		o.Devices = append(o.Devices, d)
	}
	o.CapAdd, o.CapDrop = effectiveCaps(c.capAdd, c.capDrop)
	o.Sysctls = keyValues(c.sysctls)
	if c.umask != "" {
		umask, err := umaskOf(c.umask)
		if err != nil {
			return err
		}
		o.Umask = &umask
	}
	return c.setDeviceRules(o)
}

// effectiveCaps are the lists as docker's command sends them: with CAP_, in order, each name
// once, ALL alone in its list, and nothing dropped that is added.
func effectiveCaps(add, drop []string) (_, _ []string) {
	tidy := func(list []string) (out []string) {
		for _, name := range list {
			name = strings.ToUpper(strings.TrimSpace(name))
			if name != "ALL" && !strings.HasPrefix(name, "CAP_") {
				name = "CAP_" + name
			}
			out = append(out, name)
		}
		if slices.Contains(out, "ALL") {
			return []string{"ALL"}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	add, drop = tidy(add), tidy(drop)
	return add, slices.DeleteFunc(drop, func(name string) bool { return slices.Contains(add, name) })
}

// isContainersSysctl reports whether the kernel keeps NAME=VALUE per namespace, so that a
// container may have one of its own (docker/cli opts.ValidateSysctl).
func isContainersSysctl(text string) bool {
	name, _, ok := strings.Cut(text, "=")
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return ok
	}
	return ok && (strings.HasPrefix(name, "net.") || strings.HasPrefix(name, "fs.mqueue."))
}

// isCDIName says whether a device is named as in the files of the Container Device Interface, and not by its path.
func isCDIName(device string) bool {
	kind, _, ok := strings.Cut(device, "=")
	return ok && strings.Contains(kind, "/") && kind[0] != '/'
}
