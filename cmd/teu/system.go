//go:build !front && !porter

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/network"
	"github.com/teu-dev/teu/runner/selinux"
	"github.com/teu-dev/teu/runner/spec"
	"github.com/teu-dev/teu/runner/userns"
	"github.com/teu-dev/teu/server/engine"
)

func newSystemCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "system", Short: "Look after the store and the host"}
	cmd.AddCommand(newSystemDFCommand(a), newSystemPruneCommand(a), newSystemCheckCommand(a), newSystemResetCommand(a), newInfoCommand(a), newDialStdioCommand(a), newEventsCommand(a), newSystemBootCommand(a), newSystemDownCommand(a), newAppArmorCommand(a))
	return cmd
}

// pruneFlags are docker's flags of `system prune`.
type pruneFlags struct {
	all, force, volumes bool
	filters             []string
}

func newSystemPruneCommand(a *app) *cobra.Command {
	var f pruneFlags
	cmd := &cobra.Command{
		Use:     "prune [OPTIONS]",
		Short:   "Remove stopped containers, unused networks and images, and the build cache",
		Example: "  teu system prune --force\n  teu system prune --all --volumes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			what := []string{"all stopped containers", "all networks not used by at least one container"}
			if f.volumes {
				what = append(what, "all anonymous volumes not used by at least one container")
			}
			if f.all {
				what = append(what, "all images without at least one container associated to them", "all build cache")
			} else {
				what = append(what, "all dangling images", "unused build cache")
			}
			if f.volumes && slices.ContainsFunc(f.filters, func(s string) bool { return strings.HasPrefix(s, "until=") }) {
				return errors.New(`the "until" filter is not supported with "--volumes"`)
			}
			f.filters = pruneFilters(f.filters)
			warning := "WARNING! This will remove:\n  - " + strings.Join(what, "\n  - ") + "\n\n"
			if len(f.filters) > 0 {
				warning += "  Items to be pruned will be filtered with:\n  - " + strings.Join(f.filters, "\n  - ") + "\n\n"
			}
			if !f.force && !a.confirm(cmd.Context(), warning) {
				return nil
			}
			return systemPrune(cmd.Context(), a, f)
		},
	}
	s := cmd.Flags()
	s.BoolVarP(&f.all, "all", "a", false, "remove all unused images, not just dangling ones")
	s.BoolVarP(&f.force, "force", "f", false, "do not ask")
	s.BoolVar(&f.volumes, "volumes", false, "remove anonymous volumes too")
	filterVar(s, &f.filters, "", "only what matches: until=TIME, label=, label!=")
	return cmd
}

// confirm asks a yes-no question. The answer may come from a pipe, as in `yes | teu system
// prune`. No answer, and a signal while it waits for one, mean no and are no failure, as docker
// has it; a script that meant yes is told how to say so.
func (a *app) confirm(ctx context.Context, warning string) bool {
	awaitCatching(ctx)
	fmt.Fprintf(a.ui.Out, "%sAre you sure you want to continue? [y/N] ", warning)
	type reply struct {
		line string
		err  error
	}
	replies := make(chan reply, 1)
	go func() {
		line, err := bufio.NewReader(a.ui.In).ReadString('\n')
		replies <- reply{line, err}
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.ui.Out)
		return false
	case r := <-replies:
		answer := strings.ToLower(strings.TrimSpace(r.line))
		if r.err != nil && answer == "" && !a.ui.InTerminal() {
			fmt.Fprintln(a.ui.Out)
			a.ui.Notef("nothing was removed: this asks first, and nobody answered; say --force")
		}
		return answer == "y" || answer == "yes"
	}
}

func systemPrune(ctx context.Context, a *app, f pruneFlags) error {
	filters := splitFilters(f.filters)
	ofImages, err := listing.ParseFilters(f.filters)
	if err != nil {
		return err
	}
	unused, err := unusedSince(filters["until"], time.Now())
	if err != nil {
		return err
	}
	containers, freed, err := a.engine().Prune(ctx, runner.PruneOptions{Filters: filters})
	if err != nil {
		return err
	}
	a.list("Deleted Containers:", containers)
	networks, err := a.engine().PruneNetworks(ctx, filters)
	a.list("Deleted Networks:", networks)
	if err != nil {
		return err
	}
	if f.volumes {
		names, size, err := a.engine().PruneVolumes(ctx, runner.PruneVolumesOptions{Filters: filters})
		if err != nil {
			return err
		}
		freed += size
		a.list("Deleted Volumes:", names)
	}
	lib, err := a.library()
	if err != nil {
		return err
	}
	images, size, err := lib.Prune(ctx, library.PruneOptions{All: f.all, Filters: ofImages})
	a.list("Deleted Images:", removals(images))
	if err != nil {
		return err
	}
	a.engine().TellPruned("image", size)
	freed += size
	b, err := a.builder()
	if err != nil {
		return err
	}
	if len(filters["label"])+len(filters["label!"]) == 0 { // the cache has no labels
		entries, err := b.Prune(ctx, build.PruneOptions{All: f.all, Matches: unused, Collected: true})
		if err != nil {
			return err
		}
		var ids []string
		size = 0
		for _, e := range entries {
			ids, size = append(ids, e.ID), size+e.Size
		}
		a.engine().TellPruned("builder", size)
		freed += size
		a.list("Deleted build cache objects:", ids)
	}
	a.ui.Printf("Total reclaimed space: %s\n", units.HumanSize(float64(freed)))
	return nil
}

// unusedSince matches what of the build cache was last used before all the times given;
// for no time nil.
func unusedSince(times []string, now time.Time) (func(build.CacheEntry) bool, error) {
	if len(times) == 0 {
		return nil, nil
	}
	last := now
	for _, text := range times {
		t, err := runner.ParseTime(text, now)
		if err != nil {
			return nil, err
		}
		if t.Before(last) {
			last = t
		}
	}
	return func(e build.CacheEntry) bool { return e.LastUsed.Before(last) }, nil
}

func (a *app) list(heading string, names []string) {
	if len(names) == 0 {
		return
	}
	a.ui.Println(heading)
	for _, n := range names {
		a.ui.Println(n)
	}
	a.ui.Println()
}

func newSystemCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check what the host can do and whether the store is sound",
		Long: `Check what the host can do and whether the store is sound.

Every blob and layer is read and compared with its digest. The exit code is 1 when the
store has a problem; what the host lacks is only told.`,
		Example: "  teu system check",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checkHost(a.ui)
			s, err := a.store()
			if err != nil {
				return err
			}
			problems, err := s.Check(cmd.Context())
			if err != nil {
				return err
			}
			for _, p := range problems {
				a.ui.Printf("store: %s: %v\n", p.Object, p.Err)
			}
			if len(problems) > 0 {
				return withExitCode(exitFailure, fmt.Errorf("the store in %s has %d problems", a.root, len(problems)))
			}
			a.ui.Println("store: no problem found")
			return nil
		},
	}
}

// checkHost tells what this host lacks, and what to do about it.
func checkHost(u *ui.UI) {
	checkUser(u)
	host, err := cgroup.DetectOwned()
	switch {
	case err != nil:
		u.Printf("host: control groups cannot be used: %v; limits (-m, --cpus, --pids-limit) are refused\n", err)
	case host.Denied():
		u.Println("user: no control group is delegated: limits (-m, --cpus, --pids-limit) and pause have no effect; see docs/rootless.md")
	case host.Mode() == cgroup.None:
		u.Println("host: no control groups are mounted: limits (-m, --cpus, --pids-limit) have no effect; mount cgroup2 on /sys/fs/cgroup")
	case host.Mode() == cgroup.V1:
		u.Println("host: control groups v1")
	default:
		u.Println("host: control groups v2")
	}
	if filesystems, err := os.ReadFile("/proc/filesystems"); err == nil && !strings.Contains(string(filesystems), "\toverlay\n") {
		u.Println("host: no overlayfs: load it with `modprobe overlay`")
	}
	if forward, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err == nil && strings.TrimSpace(string(forward)) == "0" {
		u.Println("host: IPv4 forwarding is off; teu turns it on with the first container on the bridge")
	}
	checkModules(u)
	if userns.Inside() { // nobody of us sees the host's firewall
		return
	}
	chains, err := network.Dropping()
	if err != nil {
		u.Printf("host: the firewall cannot be read: %v; published ports and the way out of containers need nf_tables\n", err)
	}
	for _, name := range chains {
		u.Printf("host: the firewall's %s drops forwarded packets unless told otherwise; what to tell it is in docs/networking.md\n", name)
	}
}

// checkModules tells which security module of the kernel confines containers.
func checkModules(u *ui.UI) {
	if runner.AppArmorSupported() {
		u.Println("host: AppArmor confines containers, by the profile " + runner.DefaultAppArmor)
	} else if spec.AppArmorEnabled() && !userns.Inside() {
		u.Println("host: AppArmor is on, but does not confine containers: there is no apparmor_parser (package apparmor)")
	}
	switch process, _, err := selinux.Defaults(); {
	case err == nil:
		u.Printf("host: SELinux confines containers, by the type %s\n", process.Type)
	case selinux.Enabled():
		u.Printf("host: SELinux is on, but does not confine containers: %v\n", err)
	}
}

func newSystemResetCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Remove everything: containers, volumes, images, cache and the network",
		Long: `Remove everything: containers, volumes, images, cache and the network.

A registry served from below the store's directory goes with it.`,
		Example: "  teu system reset --force",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !force {
				if !a.confirm(cmd.Context(), "WARNING! This will remove every container, volume and image in "+a.root+"\n") {
					return nil
				}
			}
			return systemReset(cmd.Context(), a)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

// parts are the directories of the store; nothing else in --root is ever removed.
var parts = []string{"boot", "boot.lock", "build", "compressed", "containers", "content", "gc.lock", "ids.lock", "images", "layers", "leases", "manifests", "names", "names.lock", "networks", "owners.lock", "renaming",
	"pins", "programs", "registry", "results", "snapshots", "volumes", "volumes.lock"}

func systemReset(ctx context.Context, a *app) error {
	// Others may be about to start a container that is not in the list yet, or to take one off its network.
	const patience = 10 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := removeContainers(ctx, a)
		if err == nil {
			break
		}
		if !errdefs.IsConflict(err) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
	var errs []error
	for _, p := range parts {
		errs = append(errs, os.RemoveAll(filepath.Join(a.root, p)))
	}
	for _, p := range []string{"build", "containers", "keepers", "network", "netns"} {
		errs = append(errs, os.RemoveAll(filepath.Join(a.runRoot, p)))
	}
	// Last: the process that keeps a user's namespaces, when we are in them.
	return errors.Join(append(errs, userns.End(a.runRoot))...)
}

// removeContainers removes all containers with their volumes, and the network. A container that came meanwhile is
// an errdefs.ErrConflict.
func removeContainers(ctx context.Context, a *app) error {
	ids, err := a.engine().IDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := a.engine().Remove(ctx, id, runner.RemoveOptions{Force: true, Volumes: true}); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	// Volumes may be mounted file systems, which must not be emptied.
	if _, _, err := a.engine().PruneVolumes(ctx, runner.PruneVolumesOptions{All: true}); err != nil {
		return err
	}
	if err := network.Open(a.root, a.runRoot).Reset(ctx); err != nil {
		return err
	}
	list, err := a.engine().List(ctx) // which leaves out what was never made to its end
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("container %s was made meanwhile: %w", list[0].ID, errdefs.ErrConflict)
	}
	return err
}

func newInfoCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "info",
		Short:   "Show what teu works with here",
		Example: "  teu info\n  teu info --format '{{.Containers}}'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, err := a.engineAPI() // what docker's clients are told
			if err != nil {
				return err
			}
			defer api.Close()
			info, err := api.Info(cmd.Context())
			if err != nil {
				return err
			}
			if format != "" {
				client := clientVersion()
				client["Debug"], client["Plugins"], client["Warnings"] = a.debug, []string{}, nil
				return a.ui.Describe(format, struct {
					*engine.Info
					ClientInfo map[string]any
				}{info, client})
			}
			a.ui.Printf("Containers: %d\n Running: %d\n Paused: %d\n Stopped: %d\nImages: %d\nServer Version: %s\nStorage Driver: %s\nCgroup Driver: %s\n"+
				"Kernel Version: %s\nOSType: %s\nArchitecture: %s\nCPUs: %d\nTotal Memory: %s\nName: %s\nTeu Root Dir: %s\n",
				info.Containers, info.ContainersRunning, info.ContainersPaused, info.ContainersStopped, info.Images, version(), info.Driver,
				info.CgroupDriver, info.KernelVersion, info.OSType, info.Architecture, info.NCPU, units.BytesSize(float64(info.MemTotal)), info.Name, info.DockerRootDir)
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "print by a Go template, or \"json\"")
	return cmd
}
