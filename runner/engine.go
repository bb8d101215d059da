// Package runner owns containers: their records, their lives, their output and their volumes.
//
// There is no daemon. A container that runs has a keeper (runner/keeper), everything else
// is files, and any number of engines in any number of processes may work on them:
//
//	ROOT/containers/ID/config.json     what was created and updated; its living keeper holds it (statefile.Hold)
//	ROOT/containers/ID/name            its name, which can
//	ROOT/containers/ID/state.json      what became of it; written by its keeper
//	ROOT/containers/ID/ID-json.log     output, with older files .1, .2; .sent says how much of it a log server has
//	ROOT/containers/ID/networks.json   its networks, once they are others than it was created with
//	ROOT/containers/ID/{hosts,hostname,resolv.conf}
//	ROOT/containers/ID/ids.json        the IDs of its user namespace that nobody else may have
//	ROOT/containers/ID/lock            held for transitions only
//	ROOT/ids.lock                      held to take such IDs
//	ROOT/owners.lock                   held to copy an image for such IDs
//	ROOT/names/NAME -> ID              made by link, so that a name is given once
//	ROOT/renaming/ID                   ID is being renamed, and the networks are yet to hear of it
//	ROOT/volumes/NAME/{volume.json,_data/}
//	RUNROOT/containers/ID/             the keeper's, gone when the container is not running
//
// Readers take no lock, so a listing cannot hang on a container. Whoever finds one whose
// keeper was killed starts another keeper first.
package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
)

// Parts are what an Engine works with.
type Parts struct {
	Root, RunRoot string
	// Store gives the store. It is called when a container is created or removed.
	Store func() (*cache.Store, error)
	// Keeper gives the keeper's executable. It is called when one must be started, by
	// several goroutines.
	Keeper func() (*keeper.Binary, error)
	// Exe is teu's own executable, with which keepers finish containers.
	Exe string
	// Change applies instructions of a Dockerfile to the config object of an image, JSON.
	Change func(config []byte, instructions []string) ([]byte, error)
}

// Engine works on the containers of one root. It is safe for concurrent use.
type Engine struct {
	Parts
	network  *network.Manager
	host     func() (*cgroup.Host, error) // looked for once
	placing  sync.Once                    // of keepers
	consoles sync.Map                     // exec ID -> *Exec, of those this process started
	known    *known                       // what listings have read, or nil: see Remember

	layerSizes sync.Map // directory -> bytes as int64: a layer never changes

	warmMu   sync.Mutex
	warm     *spare // see WarmUp
	reserved string // its container's ID, until there is one
}

// Open returns the engine of a root. Nothing is read or made yet.
func Open(p Parts) *Engine {
	e := &Engine{Parts: p, network: network.Open(p.Root, p.RunRoot), host: sync.OnceValues(cgroup.DetectOwned)}
	e.network.Self = e.teu()
	return e
}

// placedKeeper is Keeper for those that stay. On hosts with systemd they get a group of their
// own: they outlive whoever starts them, and systemd ends what is in the group of a service
// or a session with that.
func (e *Engine) placedKeeper() (*keeper.Binary, error) {
	b, err := e.Keeper()
	if err != nil {
		return nil, err
	}
	e.placing.Do(func() {
		if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
			return
		}
		if h, err := e.host(); err == nil && h.Mode() == cgroup.V2 && !h.Denied() {
			if g, _, err := h.Create("teu/keepers", nil); err == nil { // else they stay with their starter
				b.BornIn(g.V2Dir())
			}
		}
	})
	return b, nil
}

// teu is a command line of teu on this engine's containers.
func (e *Engine) teu(words ...string) []string {
	return append([]string{e.Exe, "--root", e.Root, "--run-root", e.RunRoot}, words...)
}

// What every listing wants of every container is put together without filepath.Join, which looks at each byte.

func (e *Engine) containers() string          { return filepath.Join(e.Root, "containers") }
func (e *Engine) dir(id string) string        { return e.Root + "/containers/" + id }
func (e *Engine) runDir(id string) string     { return filepath.Join(e.RunRoot, "containers", id) }
func (e *Engine) configFile(id string) string { return e.dir(id) + "/config.json" }
func (e *Engine) stateFile(id string) string  { return e.dir(id) + "/state.json" }
func (e *Engine) nameFile(id string) string   { return e.dir(id) + "/name" }
func (e *Engine) logFile(id string) string    { return filepath.Join(e.dir(id), id+"-json.log") }

func (e *Engine) cgroup(c *Container) (*cgroup.Group, error) {
	h, err := e.host()
	if err != nil {
		return nil, err
	}
	return h.Open(c.cgroupPath()), nil
}

// cgroupPath is where the container's control group is in every hierarchy.
func (c *Container) cgroupPath() string {
	parent := c.Options.CgroupParent
	if parent == "" {
		parent = "teu"
	}
	return path.Join("/", parent, c.ID)
}

// Container is a container as it is read: what was created, its name and its state.
type Container struct {
	Config
	Name  string
	State keeper.State
}

// load reads a container by its whole ID.
func (e *Engine) load(id string) (*Container, error) { return e.loadKnown(id, nil) }

// loadKnown is load, of documents that k may know; then nobody may change the container.
func (e *Engine) loadKnown(id string, k *known) (*Container, error) {
	c := &Container{}
	err := readKnown(k, e.configFile(id), &c.Config)
	if errors.Is(err, errdefs.ErrDataLoss) {
		return e.damaged(id, err), nil
	}
	if err != nil {
		return nil, err
	}
	c.Name = e.nameOf(id)
	err = readKnown(k, e.stateFile(id), &c.State)
	if errors.Is(err, fs.ErrNotExist) && e.recorded(id) {
		err = fmt.Errorf("%w: %w", errdefs.ErrDataLoss, err) // it was not removed meanwhile
	}
	if errors.Is(err, errdefs.ErrDataLoss) {
		c.State, err = lostState(c.Created), nil
	}
	return c, err
}

// recorded says whether there is a record of a container.
func (e *Engine) recorded(id string) bool {
	_, err := os.Lstat(e.configFile(id))
	return err == nil
}

// lostState is that of a container which may have run when the machine went down.
func lostState(since time.Time) keeper.State {
	return keeper.State{Status: keeper.Exited, ExitCode: lostExitCode, Error: lostReason, StartedAt: since, FinishedAt: since}
}

const (
	lostReason   = "the machine went down while the container was running"
	lostExitCode = 255 // as dockerd has it
)

// damaged is a container of which a power loss left no record; it can only be removed.
func (e *Engine) damaged(id string, why error) *Container {
	c := &Container{Config: Config{ID: id}, Name: e.nameOf(id)}
	c.State = keeper.State{Status: keeper.Dead, ExitCode: lostExitCode, Error: why.Error()}
	if fi, err := os.Stat(e.dir(id)); err == nil {
		c.Created = fi.ModTime().UTC()
	}
	return c
}

// Get finds a container by name, ID, or the beginning of an ID.
func (e *Engine) Get(ctx context.Context, ref string) (*Container, error) {
	e.mendRenames(ctx)
	id, err := e.resolve(ref)
	if err != nil {
		return nil, err
	}
	return e.current(ctx, id)
}

// current reads a container after making sure that somebody keeps it.
func (e *Engine) current(ctx context.Context, id string) (*Container, error) {
	c, err := e.load(id)
	if err != nil || !orphaned(c.State) {
		return c, missing(err, id)
	}
	if err := e.adopt(ctx, c); err != nil {
		return nil, fmt.Errorf("adopting container %s: %w", c.ID, err)
	}
	c, err = e.load(id)
	return c, missing(err, id)
}

func noSuchContainer(ref string) error {
	return worded(errdefs.ErrNotFound, "No such container: %s", ref)
}

// missing is the error for a container that vanished meanwhile.
func missing(err error, ref string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return noSuchContainer(ref)
	}
	return err
}

// orphaned says whether a state that goes on has lost its keeper.
func orphaned(s keeper.State) bool {
	return s.Status.GoesOn() && !s.Keeper.Alive()
}

// adopt gives an orphan a keeper, or, if the machine has been started since, records its end.
func (e *Engine) adopt(ctx context.Context, c *Container) error {
	boot, err := statefile.BootID()
	if err != nil {
		return err
	}
	if c.State.Keeper.BootID == boot && e.hasRunDir(c.ID) {
		err := e.adoptRunning(ctx, c.ID)
		if err == nil || e.hasRunDir(c.ID) {
			return err
		}
		// Meanwhile somebody else's keeper saw its end, and what was volatile has been removed.
	}
	unlock, err := e.lock(ctx, c.ID)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := e.load(c.ID)
	if err != nil || !orphaned(now.State) {
		return err
	}
	now.State.Status, now.State.ExitCode, now.State.Error = keeper.Exited, lostExitCode, lostReason
	now.State.FinishedAt = time.Now().UTC()
	return e.writeState(now)
}

func (e *Engine) adoptRunning(ctx context.Context, id string) error {
	b, err := e.placedKeeper()
	if err != nil {
		return err
	}
	for try := 0; ; try++ { // that keeper may be killed too
		err := keeper.Adopt(ctx, b, e.runDir(id))
		if !errors.Is(err, errdefs.ErrUnavailable) || try == maxStarts {
			return err
		}
	}
}

func (e *Engine) hasRunDir(id string) bool {
	_, err := os.Stat(e.runDir(id))
	return err == nil
}

// writeState replaces the state of a container without a keeper. The lock is held.
func (e *Engine) writeState(c *Container) error {
	return statefile.Write(e.stateFile(c.ID), &c.State, statefile.WriteOptions{Overwrite: true})
}

// lock takes the container's lock for a transition.
func (e *Engine) lock(ctx context.Context, id string) (func() error, error) {
	unlock, err := statefile.Lock(ctx, filepath.Join(e.dir(id), "lock"), statefile.LockOptions{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noSuchContainer(id)
	}
	return unlock, err
}

// client talks to the keeper of a container that goes on.
func (e *Engine) client(c *Container) (*keeper.Client, error) {
	if !c.State.Status.GoesOn() {
		return nil, notRunning(c)
	}
	return keeper.At(e.runDir(c.ID)), nil
}

// ask makes a request of the container's keeper, and if that died before it received the
// request, of the next one.
func (e *Engine) ask(ctx context.Context, c *Container, request func(*keeper.Client) error) error {
	for try := 0; ; try++ {
		k, err := e.client(c)
		if err == nil {
			err = request(k)
		}
		if !errors.Is(err, keeper.ErrNoAnswer) || try == 400 {
			return err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
		if c, err = e.current(ctx, c.ID); err != nil {
			return err
		}
	}
}

func notRunning(c *Container) error {
	return worded(errdefs.ErrConflict, "container %s is not running", c.ID)
}

// IDs returns the IDs of all containers.
func (e *Engine) IDs() ([]string, error) {
	entries, err := os.ReadDir(e.containers())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, d := range entries {
		if d.IsDir() && !strings.HasPrefix(d.Name(), ".") {
			ids = append(ids, d.Name())
		}
	}
	return ids, err
}
