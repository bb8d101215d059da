package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/selinux"
)

// Boot starts what restart policies want to run after the machine, or everything of teu,
// went down: those with "always", those with "unless-stopped" that their user has not
// stopped, and those with "on-failure" that did not end well. A container comes after those
// it depends on: whose network or volumes it shares, and what compose says in its labels. told
// hears of every container that was started or could not be; the others go on.
func (e *Engine) Boot(ctx context.Context, told func(c *Container, err error)) error {
	all, err := e.List(ctx) // finishes what has ended with the machine
	if err != nil {
		return err
	}
	for _, c := range inOrder(all) {
		if !c.wantedAtBoot() {
			continue
		}
		err := e.awaitHealthy(ctx, c, all)
		if err == nil {
			// Others work meanwhile: they start it, stop it, change its policy or remove it.
			var now *Container
			if now, err = e.Get(ctx, c.ID); err == nil && !now.wantedAtBoot() {
				continue
			}
		}
		if err == nil {
			_, err = e.Start(ctx, c.ID, StartOptions{})
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, errdefs.ErrNotFound) || e.recorded(c.ID) {
			told(c, err)
		}
	}
	return nil
}

// Shutdown ends everything that runs because the machine goes down, each container with its signal and its time, all at once.
// For restart policies it is as if nobody had stopped them. told hears of every container; one that cannot be ended holds up no
// other. What the store has is on the disk then, and need not be looked at when the machine is up again.
func (e *Engine) Shutdown(ctx context.Context, told func(c *Container, err error)) error {
	seen := map[string]bool{}
	for {
		all, err := e.List(ctx)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(c *Container) bool { return ended(c.State) || seen[c.ID] })
		if len(all) == 0 { // nor have others been started meanwhile
			break
		}
		var mu sync.Mutex
		var wait sync.WaitGroup
		for _, c := range all {
			seen[c.ID] = true
			wait.Go(func() {
				err := e.Stop(ctx, c.ID, StopOptions{down: true})
				mu.Lock()
				defer mu.Unlock()
				told(c, err)
			})
		}
		wait.Wait()
	}
	store, err := e.Store()
	if err != nil {
		return err
	}
	return store.Layers.Sync(ctx)
}

func (c *Container) wantedAtBoot() bool {
	if !ended(c.State) || c.State.StartedAt.IsZero() { // it runs, or nobody ever started it
		return false
	}
	switch c.Options.Restart.Name {
	case "always":
		return true
	case "unless-stopped":
		return !c.State.Stopped
	case "on-failure":
		return !c.State.Stopped && c.State.ExitCode != 0
	}
	return false
}

// inOrder sorts containers by the time they were created, except that each comes after
// those it depends on. A circle is cut somewhere.
func inOrder(all []*Container) []*Container {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *Container) int { return a.Created.Compare(b.Created) })
	var sorted []*Container
	seen := map[string]bool{}
	var visit func(c *Container)
	visit = func(c *Container) {
		if seen[c.ID] {
			return
		}
		seen[c.ID] = true
		for _, d := range c.dependencies(all) {
			visit(d.on)
		}
		sorted = append(sorted, c)
	}
	for _, c := range all {
		visit(c)
	}
	return sorted
}

// dependency is a container that must run before another.
type dependency struct {
	on      *Container
	healthy bool // and be well
}

func (c *Container) dependencies(all []*Container) []dependency {
	var list []dependency
	refs := append([]string{c.Options.networkContainer()}, c.Options.LinkIDs...)
	for _, from := range append(slices.Clone(c.Options.VolumesFrom), c.Options.Links...) {
		name, _, _ := strings.Cut(from, ":")
		refs = append(refs, name)
	}
	for _, mode := range []string{c.Options.PIDMode, c.Options.IPCMode, c.Options.UsernsMode} {
		if name, ok := strings.CutPrefix(mode, "container:"); ok {
			refs = append(refs, name)
		}
	}
	for _, ref := range refs {
		for _, d := range all {
			if ref != "" && (d.Name == strings.TrimPrefix(ref, "/") || len(ref) >= 12 && strings.HasPrefix(d.ID, ref)) {
				list = append(list, dependency{on: d})
			}
		}
	}
	return append(list, c.composeDependencies(all)...)
}

// composeDependencies reads the label that compose leaves: "db:service_healthy:false,...".
func (c *Container) composeDependencies(all []*Container) (list []dependency) {
	labels := c.Labels()
	project := labels["com.docker.compose.project"]
	for text := range strings.SplitSeq(labels["com.docker.compose.depends_on"], ",") {
		service, rest, _ := strings.Cut(text, ":")
		condition, _, _ := strings.Cut(rest, ":")
		if service == "" || condition == "service_completed_successfully" {
			continue
		}
		for _, d := range all {
			l := d.Labels()
			if l["com.docker.compose.project"] == project && l["com.docker.compose.service"] == service {
				list = append(list, dependency{on: d, healthy: condition == "service_healthy"})
			}
		}
	}
	return list
}

// healthyTime is how long a container waits at boot until one it depends on is well.
const healthyTime = 2 * time.Minute

// awaitHealthy waits for the containers that compose wants to be healthy before c. One that
// does not run holds nothing up.
func (e *Engine) awaitHealthy(ctx context.Context, c *Container, all []*Container) error {
	ctx, cancel := context.WithTimeout(ctx, healthyTime)
	defer cancel()
	for _, d := range c.dependencies(all) {
		for d.healthy {
			now, err := e.Get(ctx, d.on.ID)
			if err != nil || ended(now.State) || now.State.Health == nil || now.State.Health.Status == keeper.HealthHealthy {
				break
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return fmt.Errorf("%s has not become healthy: %w", d.on.Name, errors.Join(err))
			}
		}
	}
	return nil
}

// Unit is a systemd unit that does [Engine.Boot] and [Engine.Shutdown] for the system, or for a user.
func Unit(exe string, user bool) string {
	target, network, mode := "multi-user.target", "After=network-online.target\nWants=network-online.target\n", ""
	if user {
		target, network, mode = "default.target", "", " --user"
	}
	label := ""
	if l := selinux.ServiceLabel(); l != "" && !user {
		label = "# With the label that the policy gives to services containers cannot be started.\nSELinuxContext=-" + l + "\n"
	}
	exe = cmp.Or(exe, "/usr/local/bin/teu")
	return fmt.Sprintf(`[Unit]
Description=Containers of teu
%s
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=%s system boot
# The containers are processes of their own: stopping this unit does not end them, but for when the machine goes down.
ExecStop=/bin/sh -c 'test "$$(systemctl%s is-system-running)" != stopping || exec %s system down'
KillMode=none
Delegate=yes
TimeoutStartSec=infinity
%s
[Install]
WantedBy=%s
`, network, exe, mode, exe, label, target)
}
