package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
)

// Create makes a container from a local image and returns it. A missing image is an
// errdefs.ErrNotFound, a name that is taken an errdefs.ErrConflict. An empty name becomes
// a random one. On error nothing is left behind.
func (e *Engine) Create(ctx context.Context, name string, o Options) (_ *Container, err error) {
	if name != "" {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	o.limitSwap()
	if err := o.check(); err != nil {
		return nil, err
	}
	if err := errors.Join(e.nameNetworks(&o), e.checkNetworks(&o), e.nameModes(&o)); err != nil {
		return nil, err
	}
	store, err := e.Store()
	if err != nil {
		return nil, err
	}
	unpin, err := store.Pin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unpin()) }()
	img, layers, err := e.image(ctx, store, o)
	if err != nil {
		return nil, err
	}
	c := &Container{Config: Config{
		ID: e.claimID(), Created: time.Now().UTC(), Options: o,
		ImageID: img.Manifest.Config.Digest, Manifest: img.Descriptor.Digest, ImageConfig: img.Config.Config,
	}}
	if len(c.command()) == 0 {
		return nil, worded(errdefs.ErrInvalidArgument, "no command specified")
	}
	c.ImageHealth, c.ImageShell = imageHealth(img.RawConfig)
	c.Hostname = o.hostname(c.ID)
	if err := e.make(ctx, store, c, name, layers); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return nil, errors.Join(err, e.unmake(undo, c, RemoveOptions{Volumes: true}), e.dropMade(undo, c))
	}
	e.tell(c, "create", nil)
	return c, nil
}

// ErrPlatform is an image that is there, but not for the platform that was asked for. It is an
// errdefs.ErrNotFound: clients pull it then.
var ErrPlatform = fmt.Errorf("of another platform: %w", errdefs.ErrNotFound)

// image finds the image and makes sure that it is unpacked.
func (e *Engine) image(ctx context.Context, store *cache.Store, o Options) (content.Image, []string, error) {
	record, err := store.Lookup(ctx, o.Image)
	if err != nil {
		return content.Image{}, nil, err
	}
	p := content.Host()
	if o.Platform != nil {
		p = *o.Platform
	}
	img, err := content.Resolve(ctx, store.Content, record.Target, p)
	if o.Platform != nil && (errors.Is(err, errdefs.ErrNotFound) || err == nil && img.Config.OS != "" && content.MatchPlatform(p, img.Platform()) == 0) {
		return content.Image{}, nil, worded(ErrPlatform, "image with reference %s was found but does not provide the specified platform (%s)",
			WithTag(o.Image), content.PlatformString(p))
	}
	if err != nil {
		return content.Image{}, nil, err
	}
	layers, err := hold(ctx, store, img)
	if errors.Is(err, errdefs.ErrNotFound) {
		if _, gone := store.Lookup(ctx, o.Image); gone != nil { // by now
			return content.Image{}, nil, gone
		}
	}
	if err != nil {
		return content.Image{}, nil, fmt.Errorf("unpacking %s: %w", o.Image, err)
	}
	return img, layers, nil
}

// hold unpacks an image. All of it stays then for as long as the caller's pin lives, also if nobody else needs it any more.
func hold(ctx context.Context, store *cache.Store, img content.Image) (layers []string, err error) {
	for _, d := range []digest.Digest{img.Descriptor.Digest, img.Manifest.Config.Digest} {
		if ok, err := store.Content.Touch(d); err != nil || !ok {
			return nil, cmp.Or(err, fmt.Errorf("blob %s is not here: %w", d, errdefs.ErrNotFound))
		}
	}
	return store.Unpack(ctx, img)
}

// make makes the parts of a container, the record last: what is not recorded does not
// exist. A directory without a record says who is making it, see sweep.
func (e *Engine) make(ctx context.Context, store *cache.Store, c *Container, name string, layers []string) error {
	if err := e.makeDir(c.ID, c.Options.Starting); err != nil {
		return err
	}
	lowers, err := store.Layers.Stack(ctx, layers)
	if err != nil {
		return err
	}
	if err := errors.Join(e.claimIDs(ctx, c, lowers), e.label(ctx, c)); err != nil {
		return err
	}
	if layers, lowers, err = e.ownLayers(ctx, store, c, layers, lowers); err != nil {
		return err
	}
	sn, err := store.Snapshots.Prepare(ctx, c.ID, lowers, layers)
	if err != nil {
		return fmt.Errorf("preparing the root filesystem: %w", err)
	}
	if err := c.mark(sn.Upper); err != nil {
		return err
	}
	// Where the machine goes down, nobody wants back what was to vanish at its end.
	lease := cache.Lease{Manifest: c.Manifest, Layers: layers, Snapshots: []string{c.ID}, Volatile: c.Options.AutoRemove}
	var g errgroup.Group
	g.Go(func() error { return store.Lease(ctx, leaseName(c.ID), lease) }) // waits for the disk
	g.Go(func() error { return e.describe(ctx, store, c, name) })
	if err := g.Wait(); err != nil {
		return err
	}
	if err := statefile.Write(e.configFile(c.ID), &c.Config, statefile.WriteOptions{Durable: !c.Options.AutoRemove}); err != nil {
		return err
	}
	if c.Options.AutoRemove || c.Options.Starting {
		return nil // the maker stays for Prune, and for sweep, which removes what a power loss has left of it
	}
	return os.Remove(filepath.Join(e.dir(c.ID), makerName))
}

// describe gives a container that is being made its name, mounts and first state. The name comes first: what is
// refused most often then has made nothing on the host.
func (e *Engine) describe(ctx context.Context, store *cache.Store, c *Container, name string) (err error) {
	if c.Name, err = e.claimName(ctx, c.ID, name, ""); err != nil {
		return err
	}
	if c.Mounts, err = e.mountPoints(ctx, store, c); err != nil {
		return err
	}
	c.State = keeper.State{Status: keeper.Created, Finished: true}
	return e.writeState(c)
}

// makerName is the record of who makes a container.
const makerName = "maker.json"

// maker is who makes a container, and perhaps will start it.
type maker struct {
	statefile.Process
	Starting bool `json:",omitempty"`
}

// startsSoon says whether a container's maker lives and has yet to start it.
func (e *Engine) startsSoon(c *Container) bool {
	var by maker
	return c.State.Status == keeper.Created && statefile.Read(filepath.Join(e.dir(c.ID), makerName), &by) == nil && by.Starting && by.Alive()
}

// makeDir makes the directory of a container with the record of who is making it. Until both
// are there the directory itself has the maker's name.
func (e *Engine) makeDir(id string, starting bool) error {
	self, err := statefile.Self()
	if err != nil {
		return err
	}
	by := maker{Process: self, Starting: starting}
	dir := filepath.Join(e.containers(), fmt.Sprintf(makingFormat, self.PID, self.StartTime, id))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := statefile.Write(filepath.Join(dir, makerName), &by, statefile.WriteOptions{}); err != nil {
		return err
	}
	return os.Rename(dir, e.dir(id))
}

const (
	makingPrefix = ".making-"
	makingFormat = makingPrefix + "%d-%d-%s" // pid, start time, ID
)

// sweepMaking removes a directory that makeDir has left, if it has.
func (e *Engine) sweepMaking(name string) error {
	boot, err := statefile.BootID()
	if err != nil {
		return err
	}
	by, id := statefile.Process{BootID: boot}, ""
	if _, err := fmt.Sscanf(name, makingFormat, &by.PID, &by.StartTime, &id); err == nil && by.Alive() {
		return nil
	}
	return statefile.RemoveAll(filepath.Join(e.containers(), name))
}

// sweep removes what processes have left that died while they made or removed a container.
func (e *Engine) sweep(ctx context.Context) error {
	entries, err := os.ReadDir(e.containers())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, d := range entries {
		if strings.HasPrefix(d.Name(), removedPrefix) {
			errs = append(errs, statefile.RemoveAll(filepath.Join(e.containers(), d.Name())))
			continue
		}
		if strings.HasPrefix(d.Name(), makingPrefix) {
			errs = append(errs, e.sweepMaking(d.Name()))
			continue
		}
		var by maker
		if statefile.Read(filepath.Join(e.dir(d.Name()), makerName), &by) != nil || by.Alive() {
			continue
		}
		var whole Config
		if err := statefile.Read(e.configFile(d.Name()), &whole); err == nil {
			continue // it died after the last step but one, or the container is --rm
		} else if !errors.Is(err, errdefs.ErrNotFound) && !errors.Is(err, errdefs.ErrDataLoss) {
			errs = append(errs, err)
			continue
		}
		c := &Container{Config: Config{ID: d.Name()}, Name: e.nameOf(d.Name()), State: keeper.State{Finished: true}}
		errs = append(errs, e.unmake(ctx, c, RemoveOptions{}))
	}
	return errors.Join(append(errs, err)...)
}

func leaseName(id string) string { return "container-" + id }

// maxHostname is the kernel's longest name of a host in bytes, sethostname(2).
const maxHostname = 64

// check refuses what cannot work.
func (o *Options) check() error {
	if o.AutoRemove && o.Restart.Name != "" && o.Restart.Name != "no" {
		return fmt.Errorf("conflicting options: cannot specify both --restart and --rm: %w", errdefs.ErrInvalidArgument)
	}
	if err := checkRestart(o.Restart); err != nil {
		return err
	}
	if len(o.Hostname) > maxHostname {
		return refused("hostname %q is too long (maximum %d bytes)", o.Hostname, maxHostname)
	}
	if _, empty := o.Annotations[""]; empty {
		return worded(errdefs.ErrInvalidArgument, "invalid Annotations: the empty string is not permitted as an annotation key")
	}
	if err := errors.Join(o.checkProcess(), o.checkUserns(), o.checkHooks(), o.CheckNamespaces()); err != nil {
		return err
	}
	return errors.Join(o.checkMode(), o.checkLimits(), o.Health.check())
}

// checkRestart refuses what moby does (api/types/container, ValidateRestartPolicy).
func checkRestart(p keeper.RestartPolicy) error {
	switch p.Name {
	case "", "no", "on-failure", "always", "unless-stopped":
	default:
		return refused("invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'", p.Name)
	}
	if p.MaxRetries != 0 && p.Name != "on-failure" {
		return refused("invalid restart policy: maximum retry count can only be used with 'on-failure'")
	}
	if p.MaxRetries < 0 {
		return refused("invalid restart policy: maximum retry count cannot be negative")
	}
	return nil
}

// CheckRuntime refuses the name of a runtime that is not there. There is one, whatever docker's users call the usual one.
func CheckRuntime(name string) error {
	switch name {
	case "", "teu", "runc", "io.containerd.runc.v2":
		return nil
	}
	return worded(errdefs.ErrInvalidArgument, "unknown or invalid runtime name: %s", name)
}

// CheckIsolation refuses an isolation that only Windows has, in moby's words (daemon/container.go, validateHostConfig).
func CheckIsolation(name string) error {
	if name == "" || strings.EqualFold(name, "default") {
		return nil
	}
	return worded(errdefs.ErrInvalidArgument, "invalid isolation '%s' on linux", name)
}

// check refuses what moby does (daemon/container.go, validateHealthCheck). h may be nil.
func (h *HealthCheck) check() error {
	if h == nil {
		return nil
	}
	for name, d := range map[string]time.Duration{"Interval": h.Interval, "Timeout": h.Timeout, "StartPeriod": h.StartPeriod, "StartInterval": h.StartInterval} {
		if d != 0 && d < time.Millisecond {
			return refused("%s in Healthcheck cannot be less than 1ms", name)
		}
	}
	if h.Retries < 0 {
		return refused("Retries in Healthcheck cannot be negative")
	}
	return nil
}

// checkMode refuses wishes that the network mode does not allow, in docker's words
// (api/server/router/container, validateNetMode of runconfig).
func (o *Options) checkMode() error {
	mode := o.networkMode()
	refuse := func(what string) error {
		return worded(errdefs.ErrInvalidArgument, "conflicting options: %s", what)
	}
	if mode == "container" || mode == "container:" {
		return refused("invalid network mode: invalid container format container:<name|id>")
	}
	if mode == "host" && len(o.Links) > 0 {
		return refuse("host type networking can't be used with links. This would result in undefined behavior")
	}
	if o.UTSMode == "host" && o.Hostname != "" {
		return refuse("hostname and the UTS mode")
	}
	if o.UTSMode == "host" && o.Domainname != "" { // runc refuses it at the start
		return refuse("domainname and the UTS mode")
	}
	if mode == "host" && o.MacAddress != "" {
		return refuse("mac-address and the network mode")
	}
	if o.networkContainer() == "" {
		return nil
	}
	switch {
	case o.Hostname != "":
		return refuse("hostname and the network mode")
	case len(o.Links) > 0:
		return refuse("container type network can't be used with links. This would result in undefined behavior")
	case len(o.DNS) > 0:
		return refuse("dns and the network mode")
	case len(o.ExtraHosts) > 0:
		return refuse("custom host-to-IP mapping and the network mode")
	case o.MacAddress != "":
		return refuse("mac-address and the network mode")
	case len(o.Ports) > 0 || o.PublishAll:
		return refuse("port publishing and the container type network mode")
	case len(o.Expose) > 0:
		return refuse("port exposing and the container type network mode")
	}
	return nil
}

func (o *Options) networkMode() string {
	if o.Network == "" || o.Network == "default" {
		return "bridge"
	}
	return o.Network
}

// networkContainer is the container whose network is shared, or empty.
func (o *Options) networkContainer() string {
	const prefix = "container:"
	if len(o.Network) > len(prefix) && o.Network[:len(prefix)] == prefix {
		return o.Network[len(prefix):]
	}
	return ""
}

func (o *Options) hostname(id string) string {
	if o.Hostname != "" {
		return o.Hostname
	}
	if o.networkMode() == "host" || o.UTSMode == "host" {
		if name, err := os.Hostname(); err == nil {
			return name
		}
	}
	return id[:12]
}
