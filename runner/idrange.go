package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/userns"
)

// The IDs of containers with --userns auto. A container's are on record in
//
//	ROOT/containers/ID/ids.json
//
// from before its config is written until its directory is renamed to be removed; whoever
// takes IDs holds the lock ROOT/ids.lock and looks at all of them. So no two containers of a
// store have an ID in common, and a process that dies leaves what [Engine.sweep] removes.

const idsName = "ids.json"

// subordinateUser is the user whose subordinate IDs containers of root get, as podman has it.
const subordinateUser = "containers"

// defaultRange is used where nothing is granted to that user: what podman's manual suggests
// to grant. Below are the ranges of ordinary users (login.defs(5)) and of systemd-nspawn.
func defaultRange() userns.Range { return userns.Range{Start: 1 << 31, Count: 1<<31 - 1<<16} }

// claimIDs settles the IDs of the container's user namespace, which is being made.
func (e *Engine) claimIDs(ctx context.Context, c *Container) error {
	m, err := parseUserns(c.Options.UsernsMode)
	if err != nil || m.kind == "host" {
		return err
	}
	if m.kind == "keep-id" { // podman's meaning for root: everybody is who they are
		all := []specs.LinuxIDMapping{{Size: 1<<32 - 1}}
		c.UserIDs = &UserIDs{UIDs: all, GIDs: all}
		return nil
	}
	unlock, err := statefile.Lock(ctx, filepath.Join(e.Root, "ids.lock"), statefile.LockOptions{})
	if err != nil {
		return err
	}
	defer unlock()
	taken, err := e.takenIDs()
	if err != nil {
		return err
	}
	size := m.size
	if size == 0 {
		size = c.neededIDs()
	}
	ids := &UserIDs{}
	if ids.UIDs, err = autoIDs("/etc/subuid", m.uids, size, taken.UIDs); err != nil {
		return err
	}
	if ids.GIDs, err = autoIDs("/etc/subgid", m.gids, size, taken.GIDs); err != nil {
		return err
	}
	c.UserIDs = ids
	return statefile.Write(filepath.Join(e.dir(c.ID), idsName), ids, statefile.WriteOptions{Durable: !c.Options.AutoRemove})
}

// neededIDs is how many IDs from 0 on the container needs: those of 16 bits, and its user.
func (c *Container) neededIDs() uint32 {
	n := uint64(defaultIDs)
	for part := range strings.SplitSeq(cmp.Or(c.Options.User, c.ImageConfig.User), ":") {
		if id, err := strconv.ParseUint(part, 10, 31); err == nil {
			n = max(n, id+1)
		}
	}
	return uint32(n)
}

// takenIDs are the IDs that containers have.
func (e *Engine) takenIDs() (all UserIDs, err error) {
	list, err := e.IDs()
	if err != nil {
		return all, err
	}
	for _, id := range list {
		var one UserIDs
		err := statefile.Read(filepath.Join(e.dir(id), idsName), &one)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errdefs.ErrDataLoss) {
			continue // the latter is what a power loss leaves of a --rm container
		}
		if err != nil {
			return all, fmt.Errorf("IDs of container %s: %w", id, err)
		}
		all.UIDs, all.GIDs = append(all.UIDs, one.UIDs...), append(all.GIDs, one.GIDs...)
	}
	return all, nil
}

// autoIDs maps size IDs from 0 on to those a file grants, or teu has.
func autoIDs(file string, own []specs.LinuxIDMapping, size uint32, taken []specs.LinuxIDMapping) ([]specs.LinuxIDMapping, error) {
	ranges, err := userns.Subordinate(file, subordinateUser, 1<<32-1)
	if err != nil {
		return nil, err
	}
	from := file + " grants to the user " + subordinateUser
	if len(ranges) == 0 {
		ranges, from = []userns.Range{defaultRange()}, "teu has without a line for "+subordinateUser+" in "+file
	}
	list, err := mapIDs(own, size, ranges, taken)
	if err != nil {
		return nil, worded(errdefs.ErrResourceExhausted, "--userns auto: %v among those that %s: remove containers, grant more, or ask for fewer with auto:size=", err, from)
	}
	return list, nil
}

// mapIDs maps size IDs from 0 on: those of own as they say, the others to the first free
// ones in a row.
func mapIDs(own []specs.LinuxIDMapping, size uint32, ranges []userns.Range, taken []specs.LinuxIDMapping) ([]specs.LinuxIDMapping, error) {
	missing, count := gaps(own, size)
	list := slices.Clone(own)
	if count > 0 {
		next, ok := freeIDs(ranges, count, slices.Concat(own, taken))
		if !ok {
			return nil, worded(errdefs.ErrResourceExhausted, "no %d IDs in a row are free", count)
		}
		for _, r := range missing {
			r.HostID = next
			next += r.Size
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b specs.LinuxIDMapping) int { return int(int64(a.ContainerID) - int64(b.ContainerID)) })
	return list, nil
}

// freeIDs finds the first count IDs in a row that are in a range and not taken outside.
func freeIDs(ranges []userns.Range, count uint32, taken []specs.LinuxIDMapping) (start uint32, ok bool) {
	slices.SortFunc(taken, func(a, b specs.LinuxIDMapping) int { return int(int64(a.HostID) - int64(b.HostID)) })
	for _, r := range ranges {
		at, end := uint64(r.Start), uint64(r.Start)+uint64(r.Count)
		for _, t := range taken {
			if uint64(t.HostID) >= at+uint64(count) {
				break
			}
			at = max(at, uint64(t.HostID)+uint64(t.Size))
		}
		if at+uint64(count) <= end {
			return uint32(at), true
		}
	}
	return 0, false
}
