package op

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/runner/cdi"
)

// Annotations that BuildKit's daemon reads of a device (its docs/cdi.md).
const (
	deviceClass = "org.mobyproject.buildkit.device.class"     // a name that asks for every device of the class
	deviceAllow = "org.mobyproject.buildkit.device.autoallow" // no --allow is needed
)

// A Device is one that builds may ask for.
type Device struct {
	cdi.Device
	Free bool // it need not be allowed
}

// Devices are those that the files in dirs tell of.
func Devices(dirs []string) ([]Device, error) {
	r, err := cdi.Load(dirs)
	if err != nil {
		return nil, err
	}
	known := r.Devices()
	var list []Device
	for _, d := range known {
		list = append(list, Device{d, free(known, d.Name)})
	}
	return list, nil
}

// CheckEntitlement says whether text is something that a build can be allowed: network.host,
// security.insecure, device, or device=NAME[,alias=NAME OF THE STEP].
func CheckEntitlement(text string) error {
	name, rest, given := strings.Cut(text, "=")
	switch {
	case name == "device" && given:
		_, _, err := allowedDevice(rest)
		return err
	case slices.Contains([]string{"network.host", "security.insecure", "device"}, text):
		return nil
	}
	return fmt.Errorf("unknown entitlement %s: %w", text, errdefs.ErrInvalidArgument)
}

// allowedDevice parses NAME[,alias=NAME OF THE STEP].
func allowedDevice(text string) (name, alias string, err error) {
	list := strings.Split(text, ",")
	for _, field := range list[1:] {
		key, value, ok := strings.Cut(field, "=")
		if !ok || key != "alias" {
			return "", "", fmt.Errorf("entitlement device=%s: %q is not alias=NAME: %w", text, field, errdefs.ErrInvalidArgument)
		}
		alias = value
	}
	if list[0] == "" {
		return "", "", fmt.Errorf("entitlement device=%s names no device: %w", text, errdefs.ErrInvalidArgument)
	}
	return list[0], alias, nil
}

// allowDevices makes the step's devices those it really gets, which then are part of its key, and
// refuses what the user has to allow. It is ValidateEntitlements of BuildKit's llbsolver/vertex.go.
func (x *execOp) allowDevices() error {
	if len(x.op.CdiDevices) == 0 || slices.Contains(x.env.Entitlements, "device") {
		return nil
	}
	r, err := cdi.Load(x.env.CDIDirs)
	if err != nil {
		return err
	}
	known := r.Devices()
	var granted, got []string
	aliases := map[string]string{} // the step's name to the device's
	for _, text := range x.env.Entitlements {
		rest, ok := strings.CutPrefix(text, "device=")
		if !ok {
			continue
		}
		name, alias, err := allowedDevice(rest)
		if err != nil {
			return err
		}
		if alias != "" {
			aliases[alias] = name
			continue
		}
		granted = append(granted, find(known, name)...)
	}
	x.op = x.op.CloneVT()
	var own []*pb.CDIDevice // under another name; it is allowed as that
	var forbidden []string
	for _, d := range x.op.CdiDevices {
		if name, ok := aliases[d.Name]; ok {
			d.Name = name
			own = append(own, d)
			continue
		}
		names, err := need(known, d)
		if err != nil {
			return err
		}
		for _, name := range names {
			if !slices.Contains(granted, name) && !free(known, name) {
				forbidden = append(forbidden, name)
			}
		}
		got = append(got, names...)
	}
	if len(forbidden) > 0 {
		return &deviceError{unique(forbidden)}
	}
	for _, name := range unique(got) {
		own = append(own, &pb.CDIDevice{Name: name})
	}
	x.op.CdiDevices = own
	return nil
}

// deviceEdits returns what the devices of the step need.
func (x *execOp) deviceEdits() (cdi.Edits, error) {
	if len(x.op.CdiDevices) == 0 {
		return cdi.Edits{}, nil
	}
	r, err := cdi.Load(x.env.CDIDirs)
	if err != nil {
		return cdi.Edits{}, err
	}
	known := r.Devices()
	var names []string
	for _, d := range x.op.CdiDevices {
		found, err := need(known, d)
		if err != nil {
			return cdi.Edits{}, err
		}
		names = append(names, found...)
	}
	e, err := r.Edits(unique(names))
	if err == nil && e.Hooks != nil {
		err = fmt.Errorf("CDI devices %s: they need hooks, which steps do not have: %w", strings.Join(names, ", "), errdefs.ErrNotImplemented)
	}
	return e, err
}

// need returns the devices that d asks for: none if it may be missing.
func need(known []cdi.Device, d *pb.CDIDevice) ([]string, error) {
	names := find(known, d.Name)
	if len(names) == 0 && !d.Optional {
		return nil, fmt.Errorf("required device %q is not registered: %w", d.Name, errdefs.ErrNotFound)
	}
	return names, nil
}

// find returns the devices that a step means by name: VENDOR/CLASS=DEVICE is one, VENDOR/CLASS the
// first of its kind and VENDOR/CLASS=* all; anything else is the class that an annotation gives.
func find(known []cdi.Device, name string) (names []string) {
	kind, device, _ := strings.Cut(name, "=")
	if strings.Contains(kind, "/") {
		for _, d := range known {
			switch {
			case !strings.HasPrefix(d.Name, kind+"="):
			case device == "*", d.Name == name:
				names = append(names, d.Name)
			case device == "" && len(names) == 0:
				names = append(names, d.Name)
			}
		}
	}
	if len(names) > 0 {
		return names
	}
	for _, d := range known {
		if class, ok := d.Annotations[deviceClass]; ok && class == name {
			names = append(names, d.Name)
		}
	}
	return names
}

// free says whether the device may be used by every build.
func free(known []cdi.Device, name string) bool {
	i := slices.IndexFunc(known, func(d cdi.Device) bool { return d.Name == name })
	ok, err := strconv.ParseBool(known[i].Annotations[deviceAllow])
	return err == nil && ok
}

// unique returns list without what is in it twice, in its order.
func unique(list []string) (out []string) {
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// deviceError is a step that wants devices which the user did not allow.
type deviceError struct{ names []string }

func (e *deviceError) Error() string {
	what := "device " + e.names[0] + " is"
	if len(e.names) > 1 {
		what = "devices " + strings.Join(e.names, ", ") + " are"
	}
	return what + " requested by the build but not allowed"
}

func (e *deviceError) Unwrap() error { return errdefs.ErrPermissionDenied }

// Hint tells the user how to allow it.
func (e *deviceError) Hint() string {
	return "allow it with `--allow device=" + e.names[0] + "`, or every device with `--allow device`"
}
