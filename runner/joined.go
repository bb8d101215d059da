package runner

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/oci"
)

// joined are the namespaces that a container shares: "" for its own, "host", or a path.
type joined struct {
	net, pid, ipc string
	user          string // "" also where it has none
	shm           string // /dev/shm of the container whose ipc is shared, seen from here
}

// CheckNamespaces refuses modes that are none, and forgets the name of what every container
// has.
func (o *Options) CheckNamespaces() error {
	container := func(mode string) bool {
		name, ok := strings.CutPrefix(mode, "container:")
		return ok && name != ""
	}
	if o.IPCMode == "private" {
		o.IPCMode = ""
	}
	if o.CgroupMode == "private" {
		o.CgroupMode = ""
	}
	switch {
	case o.PIDMode != "" && o.PIDMode != "host" && !container(o.PIDMode):
		return worded(errdefs.ErrInvalidArgument, "invalid PID mode: %s", o.PIDMode)
	case !slices.Contains([]string{"", "none", "shareable", "host"}, o.IPCMode) && !container(o.IPCMode):
		return worded(errdefs.ErrInvalidArgument, "invalid IPC mode: %s", o.IPCMode)
	case o.UTSMode != "" && o.UTSMode != "host":
		return worded(errdefs.ErrInvalidArgument, "invalid UTS mode: %s", o.UTSMode)
	case o.CgroupMode != "" && o.CgroupMode != "host":
		return worded(errdefs.ErrInvalidArgument, "invalid cgroup namespace mode: %s", o.CgroupMode)
	}
	return nil
}

// nameModes replaces the containers of container:NAME by their IDs, which they keep. That whose network is shared
// need not be there yet, as in docker.
func (e *Engine) nameModes(o *Options) error {
	for _, mode := range []*string{&o.Network, &o.PIDMode, &o.IPCMode, &o.UsernsMode} {
		ref, ok := strings.CutPrefix(*mode, "container:")
		if !ok {
			continue
		}
		id, err := e.resolve(ref)
		if errdefs.IsNotFound(err) && mode == &o.Network {
			continue
		}
		if errdefs.IsNotFound(err) {
			return worded(errdefs.ErrInvalidArgument, "No such container: %s", ref)
		}
		if err != nil {
			return err
		}
		*mode = "container:" + id
	}
	return nil
}

// joinable finds the running container whose namespace of a kind is to be shared.
func (e *Engine) joinable(ctx context.Context, kind, ref string) (*Container, error) {
	other, err := e.Get(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("failed to join %s namespace: %w", kind, err)
	}
	if !other.State.Alive() || !other.State.Init.Alive() {
		return nil, worded(errdefs.ErrFailedPrecondition, "failed to join %s namespace: container %s is not running", kind, other.ID)
	}
	return other, nil
}

// joinUser says what a container's UsernsMode means now, if it is the namespace of another container.
func (e *Engine) joinUser(ctx context.Context, c *Container, ns *joined, o *oci.Options) (err error) {
	ref, ok := strings.CutPrefix(c.Options.UsernsMode, "container:")
	if ok && c.UserIDs != nil {
		ns.user, err = e.join(ctx, "USER", ref, o)
	}
	return err
}

// sharesUser says whether a container is in the user namespace of another.
func (o *Options) sharesUser(other *Container) bool { return o.UsernsMode == "container:"+other.ID }

// joinPID says what a container's PIDMode means now. The namespace of another container is
// the one of its present run.
func (e *Engine) joinPID(ctx context.Context, c *Container, ns *joined, o *oci.Options) (err error) {
	ns.pid = c.Options.PIDMode
	if ref, ok := strings.CutPrefix(ns.pid, "container:"); ok {
		ns.pid, err = e.join(ctx, "PID", ref, o)
	}
	return err
}

// join returns the path of a namespace of the running container ref, see namespaceOf.
func (e *Engine) join(ctx context.Context, kind, ref string, o *oci.Options) (path string, err error) {
	other, err := e.joinable(ctx, kind, ref)
	if err == nil {
		path, _, err = namespaceOf(other, kind, o)
	}
	return path, err
}

// namespaceOf returns the path and the inode of a running container's namespace ("PID", "IPC",
// "MNT", "USER"). By that path no other is entered, should the process have ended and its number be
// another's.
func namespaceOf(other *Container, kind string, o *oci.Options) (path string, inode uint64, err error) {
	path = fmt.Sprintf("/proc/%d/ns/%s", other.State.Init.PID, strings.ToLower(kind))
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || !other.State.Init.Alive() {
		return "", 0, worded(errdefs.ErrFailedPrecondition, "failed to join %s namespace: container %s is not running", kind, other.ID)
	}
	if o.Expected == nil {
		o.Expected = map[string]uint64{}
	}
	o.Expected[path] = st.Ino
	return path, st.Ino, nil
}

// joinIPC says what a container's IPCMode means now. As in docker, only who says so shares
// its own namespace, and what is shared is it and the shared memory in /dev/shm: something
// else that is mounted there is not.
func (e *Engine) joinIPC(ctx context.Context, c *Container, ns *joined, o *oci.Options) error {
	ref, ok := strings.CutPrefix(c.Options.IPCMode, "container:")
	if !ok {
		if c.Options.IPCMode == "host" {
			ns.ipc = "host"
		}
		return nil
	}
	other, err := e.joinable(ctx, "IPC", ref)
	if err != nil {
		return err
	}
	switch mode := other.Options.IPCMode; {
	case mode == "host":
		ns.ipc = "host"
		return nil
	case mode == "" || mode == "none" || other.ownShm():
		return worded(errdefs.ErrInvalidArgument, "failed to join IPC namespace: container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", other.ID)
	case other.UserIDs.shifted() && !c.Options.sharesUser(other):
		return worded(errdefs.ErrInvalidArgument, "failed to join IPC namespace: container %s has a user namespace of its own", other.ID)
	}
	pid := other.State.Init.PID
	if ns.ipc, _, err = namespaceOf(other, "IPC", o); err != nil {
		return err
	}
	ns.shm = fmt.Sprintf("/proc/%d/root/dev/shm", pid)
	if !c.ownShm() {
		_, inode, err := namespaceOf(other, "MNT", o)
		if err != nil {
			return err
		}
		o.Taken = map[string]oci.Taken{shmDir: {PID: pid, Namespace: inode}}
	}
	return nil
}

const shmDir = "/dev/shm"

// ownShm says that the container has another mount on /dev/shm, or on /dev.
func (c *Container) ownShm() bool {
	covers := func(target string) bool { return slices.Contains([]string{shmDir, "/dev"}, path.Clean("/"+target)) }
	return slices.ContainsFunc(c.Mounts, func(p MountPoint) bool { return covers(p.Destination) }) ||
		slices.ContainsFunc(c.Options.Mounts, func(m MountRequest) bool { return covers(m.Target) })
}

// ownPID is the PID mode where only the container's processes count: what joins it finds
// its namespaces by a process.
func (o *Options) ownPID() string {
	if o.PIDMode == "host" {
		return "host"
	}
	return ""
}

// withoutShm takes /dev/shm away, as --ipc none asks for.
func withoutShm(s *specs.Spec) {
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == shmDir })
}
