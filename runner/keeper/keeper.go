// Package keeper is the supervisor of one container, and how the rest of teu talks to it.
//
// Every container has one keeper: a small process, executed from a file nobody can change, that is
// the container's parent. It owns the container's standard streams or terminal, the log
// file, the exit status, the restart policy and a control socket. It knows nothing of
// images, networks or specifications: it is given a launch program and runs it, again if
// the restart policy says so.
//
//	teu (client)                     keeper                            container
//	  Start: exec of the memfd --->  own session, lock, socket
//	  start request, program   --->  launch.Start            ------->  pid 1
//	  <--- started, or which step failed
//	  <--- output ----------------  FIFOs or terminal -> log <-------  1, 2
//	  ---- input, resize, signals -> FIFO or terminal        ------->  0
//	  <--- exit status ------------  pidfd, state.json       <-------  exit
//	  finish, done             --->  or runs `teu container finish ID` itself
//
// Any of the three may be killed at any time. The container's ends of its streams are
// FIFOs it has opened for reading and writing, so the death of a keeper gives it no
// SIGPIPE; whoever looks next finds the keeper's lock free and starts another keeper,
// which adopts the container by pidfd ([Adopt]).
//
// Files below [Config.RunDir], a directory of mode 0700 (volatile):
//
//	keeper.lock   flock held by the living keeper
//	keeper.sock   control socket, 0600; peers must have the keeper's user or be root
//	keeper.json   the Config
//	program       the marshaled launch program
//	keeper.err    what a crashed keeper said
//	holder.PID    symbolic link: start time and boot of a holder, see there
//	command.PID   and of a holder of a command's output
//	stdin, stdout, stderr   FIFOs of a container without a terminal
//	log           output that is only sent, see Sender
package keeper

import (
	"time"

	"github.com/teu-dev/teu/cache/statefile"
)

// Config is what a keeper must know besides the launch program.
type Config struct {
	ID        string
	RunDir    string // volatile directory of this container, made by the caller, 0700
	StateFile string // [State], written by the keeper
	Record    string // a document that the living keeper holds: [statefile.Hold]
	Log       Log
	TTY       bool
	OpenStdin bool   // keep standard input open although nobody is attached
	StdinOnce bool   // close it when the first attached client ends
	UID, GID  int    // owner of the standard streams, as the host sees them
	Label     string `json:",omitempty"` // and their SELinux label, or "": else the container could not use them
	Columns   uint16
	Rows      uint16
	Restart   RestartPolicy
	Cgroup    Cgroup
	Events    Events
	Health    *HealthCheck // nil: nobody looks
	NetworkOptions
	// Gates are where the program waits for others, in their order.
	Gates []Gate `json:",omitempty"`
	// Finish is executed after the final exit unless a client claimed that duty.
	Finish []string
	// Env is the environment of Finish and of the commands of Gates.
	Env []string
}

// Log says where output is kept. An empty Path keeps nothing.
type Log struct {
	Path     string
	MaxSize  int64   // bytes of one file before it is rotated; 0: never
	MaxFiles int     // files kept, the current one included
	Compress bool    // the older ones
	Attrs    string  `json:",omitempty"` // of every line: a JSON object, or "" for none
	Send     *Sender `json:",omitempty"` // nil: it goes nowhere else
}

// Gate is a point in the start of a container at which something else is to be done.
type Gate struct {
	// Command is executed, with the process's number as its last argument. If it fails, the
	// start does, with what it says on its standard error.
	Command []string
	// FIFO is where the program waits for its end; none if the program has done all it has to.
	FIFO string `json:",omitempty"`
}

// RestartPolicy is docker's: "no", "on-failure", "always" or "unless-stopped".
type RestartPolicy struct {
	Name       string `json:",omitempty"`
	MaxRetries int    `json:",omitempty"` // on-failure only; 0: no limit
}

// Cgroup names the files of the container's cgroup the keeper needs. Empty: not there.
type Cgroup struct {
	Freeze   string // cgroup.freeze or freezer.state
	Frozen   string // what freezes, "1" or "FROZEN"
	Thawed   string // what thaws, "0" or "THAWED"
	OOM      string // memory.events or memory.oom_control
	ProcFile string // cgroup.procs, to kill what shares no PID namespace with us
}

// Status is docker's word for what a container is doing.
type Status string

// The statuses a container can have.
const (
	Created    Status = "created"
	Running    Status = "running"
	Paused     Status = "paused"
	Restarting Status = "restarting"
	Removing   Status = "removing"
	Exited     Status = "exited"
	Dead       Status = "dead"
)

// State is what is known of a container's life. It is written by its keeper, and by
// others only under the container's lock while no keeper lives.
type State struct {
	Status       Status
	Init         statefile.Process // pid 1 of the container
	Keeper       statefile.Process
	Holder       statefile.Process `json:",omitzero"` // see holder
	ExitCode     int
	OOMKilled    bool   `json:",omitempty"` // a process of this run, or of the last one
	OOMKills     uint64 `json:",omitempty"` // of the cgroup, that are known
	Error        string `json:",omitempty"`
	StartedAt    time.Time
	FinishedAt   time.Time
	RestartCount int     `json:",omitempty"`
	Stopped      bool    `json:",omitempty"` // by its user; unless-stopped stays down
	Finished     bool    `json:",omitempty"` // nothing volatile is left of the last run
	Health       *Health `json:",omitempty"` // nil without a health check
	// Attached are the clients of the keeper; the next one awaits them.
	Attached []statefile.Process `json:",omitempty"`
}

// Health is what the health check of a container has found, in the shape of docker's API.
type Health struct {
	Status        string // starting, healthy or unhealthy
	FailingStreak int
	Log           []HealthResult // the last five, the newest last
}

// HealthResult is one probe.
type HealthResult struct {
	Start, End time.Time
	ExitCode   int
	Output     string // 4096 bytes at most
}

// GoesOn reports whether a container in this status has a run, or is between two.
func (s Status) GoesOn() bool { return s == Running || s == Paused || s == Restarting }

// Alive reports whether the container has processes, as far as the state knows.
func (s State) Alive() bool {
	return (s.Status == Running || s.Status == Paused) && s.Init.Alive()
}

// ExitStatus is how a process of a container ended.
type ExitStatus struct {
	Code      int    // as a shell reports it: 128+n for signal n
	OOMKilled bool   `json:",omitempty"`
	Error     string `json:",omitempty"` // why Code is a guess, or nothing was executed
	Final     bool   `json:",omitempty"` // the restart policy lets it be
}
