// Package bundle keeps the containers of an OCI runtime: what runc does with a bundle.
//
// It is for callers such as conmon, containerd's shim and docker, which have supervisors of
// their own. So no keeper stays: one starts the process and leaves, and the process then
// belongs to the caller, who is its subreaper. Everything that has to be known later is in
//
//	ROOT/ID/state.json   a record, written before there is a process and again with it
//	ROOT/ID/config.json  the bundle's spec at the time of create; later changes do not count
//	ROOT/ID/program      the launch program, to explain what failed after start
//	ROOT/ID/exec.fifo    a FIFO the process of a created container waits at
//	ROOT/ID/gate         one it waits at before, while hooks run
//	ROOT/ID/listener     one it waits at while its seccomp listener is taken
//	ROOT/ID/lock         flock of whoever changes the container
//
// ROOT is volatile. A container's status is not kept but looked up.
package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/systemd"
)

// Store is the directory of all containers.
type Store struct {
	root    string
	keeper  func() (*keeper.Binary, error)
	resctrl func() (mountpoint string, err error)
}

// Open refers to the containers below root. keeper is called when a process is started.
func Open(root string, keeper func() (*keeper.Binary, error)) *Store {
	if abs, err := filepath.Abs(root); err == nil { // keepers have another working directory
		root = abs
	}
	return &Store{root: root, keeper: keeper, resctrl: mountedResctrl}
}

// Record is what is kept of a container.
type Record struct {
	ID      string
	Bundle  string // absolute
	Rootfs  string // absolute
	Created time.Time
	Owner   string
	Cgroup  string            // "" if it has none
	Scope   systemd.Scope     // the unit that the control group is of, if systemd made it
	RDT     rdt               `json:",omitzero"`
	Init    statefile.Process // zero until there is one
	// KeepGroups says that its processes have the groups of who starts them.
	KeepGroups bool `json:",omitzero"`
	// SharedKeyring says that it has no session keyring of its own.
	SharedKeyring bool `json:",omitzero"`
	Plain         bool // has a command, no hooks and no seccomp listener: start and delete need not read its spec
}

// Container is a container that exists.
type Container struct {
	Record
	store *Store
	dir   string
	begun bool // hooks have been run for the container that is being made
}

// Status is that of runtime-spec, runtime.md, "State", and runc's "paused".
type Status = specs.ContainerState

// Paused is not in the specification.
const Paused Status = "paused"

const (
	recordName  = "state.json"
	configName  = "config.json"
	programName = "program"
	fifoName    = "exec.fifo" // runc's name, which tools know
	gateName    = "gate"
	lockName    = "lock"
	watchName   = "listener"
)

// checkID allows what runc allows.
func checkID(id string) error {
	ok := id != "" && id != "." && id != ".." && len(id) <= 255
	for _, r := range id {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r))
	}
	if !ok {
		return fmt.Errorf("container ID %q: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Get returns the container id.
func (s *Store) Get(id string) (*Container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	c := &Container{store: s, dir: filepath.Join(s.root, id)}
	err := statefile.Read(filepath.Join(c.dir, recordName), &c.Record)
	if errors.Is(err, os.ErrNotExist) {
		// The words are those of runc: its callers look for them.
		return nil, fmt.Errorf("container %q does not exist: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading container %s: %w", id, err)
	}
	return c, nil
}

// All returns every container, by ID. One that is just being made or removed may lack.
func (s *Store) All() ([]*Container, error) {
	entries, err := os.ReadDir(s.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var list []*Container
	for _, e := range entries {
		c, err := s.Get(e.Name())
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// lock keeps others from changing the container, and reads its record again.
func (c *Container) lock(ctx context.Context) (unlock func() error, err error) {
	unlock, err = statefile.Lock(ctx, filepath.Join(c.dir, lockName), statefile.LockOptions{})
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("container %q does not exist: %w", c.ID, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("locking container %s: %w", c.ID, err)
	}
	now, err := c.store.Get(c.ID)
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	c.Record = now.Record
	return unlock, nil
}

// Status looks up what the container is doing.
func (c *Container) Status() (Status, error) {
	if c.Init.PID == 0 {
		unlock, free, err := statefile.TryLock(filepath.Join(c.dir, lockName), statefile.LockOptions{})
		if err != nil || !free {
			return specs.StateCreating, err
		}
		return specs.StateStopped, unlock() // whoever made it died over it
	}
	if !c.Init.Alive() {
		return specs.StateStopped, nil
	}
	if g, err := c.group(); err != nil {
		return "", err
	} else if g != nil {
		if frozen, err := g.Frozen(); err != nil || frozen {
			return Paused, err
		}
	}
	_, err := os.Lstat(filepath.Join(c.dir, fifoName))
	switch {
	case err == nil:
		return specs.StateCreated, nil
	case !errors.Is(err, os.ErrNotExist):
		return "", err
	}
	return specs.StateRunning, nil
}

// State is the container's state as runtime-spec prints it.
func (c *Container) State() (*specs.State, error) {
	status, err := c.Status()
	if err != nil {
		return nil, fmt.Errorf("state of container %s: %w", c.ID, err)
	}
	s := &specs.State{Version: specs.Version, ID: c.ID, Status: status, Bundle: c.Bundle}
	if status != specs.StateStopped {
		s.Pid = c.Init.PID
	}
	if conf, err := c.spec(); err == nil {
		s.Annotations = conf.Annotations
	}
	return s, nil
}

func (c *Container) spec() (*specs.Spec, error) {
	s := new(specs.Spec)
	if err := statefile.Read(filepath.Join(c.dir, configName), s); err != nil {
		return nil, fmt.Errorf("reading the spec of container %s: %w", c.ID, err)
	}
	return s, nil
}

// group is the container's control group, nil if it has none.
func (c *Container) group() (*cgroup.Group, error) {
	if c.Cgroup == "" {
		return nil, nil
	}
	h, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	return h.Open(c.Cgroup), nil
}

// keyring is the name of the session keyring, which is runc's.
func (c *Container) keyring() string { return "_ses." + c.ID }

// needGroup is group for what cannot be done without.
func (c *Container) needGroup() (*cgroup.Group, error) {
	g, err := c.group()
	if err == nil && g == nil {
		err = fmt.Errorf("container %s has no control group: %w", c.ID, errdefs.ErrNotImplemented)
	}
	return g, err
}

// pidfd holds the container's first process, if it lives.
func (c *Container) pidfd() (*os.File, error) {
	fd, err := unix.PidfdOpen(c.Init.PID, 0)
	if err == nil && !c.Init.Alive() {
		unix.Close(fd)
		err = unix.ESRCH
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: container not running: %w", c.ID, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}
