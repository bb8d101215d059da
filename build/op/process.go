package op

import (
	"context"
	"io"
	"os"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner/cdi"
)

// A Network is what a command sees of the network.
type Network int

const (
	NetworkDefault Network = iota // a bridge of its own with NAT
	NetworkNone                   // a loopback only
	NetworkHost                   // the host's
)

// A Process is a command and the container it runs in.
type Process struct {
	Args, Env []string
	Cwd       string
	User      string // as in a Dockerfile: names or numbers, "" for root
	Hostname  string

	Root     mount.Overlay // of the container
	Files    *rootfs.Dir   // the root as it is before the command, for reading
	ReadOnly bool          // the root must not be changed
	Mounts   []Mount       // parents before what is mounted in them

	Devices cdi.Edits // of the machine

	Network   Network
	Insecure  bool // everything a privileged container may do
	Ulimits   []*pb.Ulimit
	Cgroup    string             // path of the group to make one in; "" for the executor's own
	Resources *pb.LinuxResources // may be nil

	Stdin          io.Reader // nil: it is empty
	Stdout, Stderr io.Writer
	TTY            bool // the three are a terminal, and Stderr is not used

	// Begun is called when the command runs, with what may be used until Run returns; it may be nil.
	Begun func(Running)

	// Next is the network of the command that is to run on what this one leaves; nil: none is.
	Next *Network
}

// A Running is a process that runs.
type Running interface {
	Signal(unix.Signal) error
	Resize(columns, rows uint16) error
	// Exec runs a further process in the container, as Run does. Of p only what belongs to the process counts, not
	// to the container.
	Exec(ctx context.Context, p Process) error
	// Root opens the root as the process sees it.
	Root() (*rootfs.Dir, error)
}

// A Mount is a filesystem in a container.
type Mount struct {
	Target string // absolute and clean
	// Source is a mount that has no place yet (open_tree(2), fsmount(2)); nil makes an empty
	// tmpfs. It stays the caller's.
	Source  *os.File
	File    bool     // the root of Source is not a directory
	Options []string // as mount(8) writes them
}

// An Executor runs the command of a RUN in a container.
type Executor interface {
	// Run returns when every process of p has ended. A command that failed is an
	// *ExitError. When ctx ends they are killed.
	Run(ctx context.Context, p Process) error
}
