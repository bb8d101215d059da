package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
// store have an ID in common but those that share a user namespace, which have all (shareIDs), and a
// process that dies leaves what [Engine.sweep] removes.

const idsName = "ids.json"

// subordinateUser is the user whose subordinate IDs containers of root get, as podman has it.
const subordinateUser = "containers"

// defaultRange is used where nothing is granted to that user: what podman's manual suggests
// to grant. Below are the ranges of ordinary users (login.defs(5)) and of systemd-nspawn.
func defaultRange() userns.Range { return userns.Range{Start: 1 << 31, Count: 1<<31 - 1<<16} }

// claimIDs settles the IDs of the container's user namespace, which is being made of lower
// directories.
func (e *Engine) claimIDs(ctx context.Context, c *Container, lowers []string) error {
	m, err := parseUserns(c.Options.UsernsMode)
	if err != nil || m.kind == "host" {
		return err
	}
	inside := userns.Inside()
	switch {
	case m.kind == "container":
		return e.shareIDs(ctx, c, m.container)
	case inside && m.kind != "auto":
		if c.UserIDs, err = ownersIDs(m); err != nil {
			return err
		}
		if m.kind == "keep-id" && cmp.Or(c.Options.User, c.ImageConfig.User) == "" { // as podman has it
			uid, gid := c.UserIDs.inside(0, 0)
			c.Options.User = fmt.Sprintf("%d:%d", uid, gid)
		}
		return nil
	case m.kind == "keep-id": // podman's meaning for root: everybody is who they are
		all := []specs.LinuxIDMapping{{Size: 1<<32 - 1}}
		c.UserIDs = &UserIDs{UIDs: all, GIDs: all}
		return nil
	}
	size := m.size
	if size == 0 {
		if size, err = c.neededIDs(ctx, lowers, inside); err != nil {
			return err
		}
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
	ids := &UserIDs{OnDisk: inside}
	uids, gids := rangeOfRoot("/etc/subuid"), rangeOfRoot("/etc/subgid")
	if inside {
		uids, gids = rangeOfUser("uid"), rangeOfUser("gid")
	}
	if ids.UIDs, err = autoIDs(uids, m.uids, size, taken.UIDs); err != nil {
		return err
	}
	if ids.GIDs, err = autoIDs(gids, m.gids, size, taken.GIDs); err != nil {
		return err
	}
	c.UserIDs = ids
	return e.recordIDs(c)
}

func (e *Engine) recordIDs(c *Container) error {
	return statefile.Write(filepath.Join(e.dir(c.ID), idsName), c.UserIDs, statefile.WriteOptions{Durable: !c.Options.AutoRemove})
}

// shareIDs gives the container the IDs of another. Those that are on record are so for both: the
// other may be removed while this one has processes and files.
func (e *Engine) shareIDs(ctx context.Context, c *Container, ref string) error {
	unlock, err := statefile.Lock(ctx, filepath.Join(e.Root, "ids.lock"), statefile.LockOptions{})
	if err != nil {
		return err
	}
	defer unlock()
	other, err := e.Get(ctx, ref)
	if err != nil || other.UserIDs == nil {
		return err
	}
	if err := c.Options.checkShared(); err != nil {
		return err
	}
	c.UserIDs = other.UserIDs
	if _, err := os.Lstat(filepath.Join(e.dir(other.ID), idsName)); errors.Is(err, fs.ErrNotExist) {
		return nil // they are the user's, and everybody's
	} else if err != nil {
		return err
	}
	return e.recordIDs(c)
}

// fewIDs is how many IDs a container of an ordinary user gets at least, who has not many.
const fewIDs = 1024

// neededIDs is how many IDs from 0 on the container needs: those of 16 bits, and its user. Where
// these are few, it is those that its image uses.
func (c *Container) neededIDs(ctx context.Context, lowers []string, few bool) (uint32, error) {
	n := uint64(defaultIDs)
	if few {
		largest, err := largestID(ctx, lowers)
		if err != nil {
			return 0, err
		}
		n = max(fewIDs, uint64(largest)+1)
	}
	for part := range strings.SplitSeq(cmp.Or(c.Options.User, c.ImageConfig.User), ":") {
		if id, err := strconv.ParseUint(part, 10, 31); err == nil {
			n = max(n, id+1)
		}
	}
	return uint32(n), nil
}

// ownersIDs are the IDs of an ordinary user's container with keep-id or nomap: all that the user
// has, where the user's own, which is 0 here, is who m says, or nobody.
func ownersIDs(m usernsMode) (*UserIDs, error) {
	ids := &UserIDs{OnDisk: true}
	for _, k := range []struct {
		kind string
		as   *uint32
		list *[]specs.LinuxIDMapping
	}{{"uid", m.uid, &ids.UIDs}, {"gid", m.gid, &ids.GIDs}} {
		own, others, err := userns.Own(k.kind)
		if err != nil {
			return nil, err
		}
		if others == 0 {
			return nil, worded(errdefs.ErrFailedPrecondition, "--userns %s: the user has no subordinate IDs, of which it needs some; see teu system check", m.kind)
		}
		if k.as != nil {
			own = *k.as
		}
		if m.kind == "nomap" {
			*k.list = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1, Size: others}}
			continue
		}
		*k.list = around(own, others)
	}
	return ids, nil
}

// around maps own to 0, the IDs below it to the first of the others from 1 on, and those above to
// the rest.
func around(own, others uint32) (list []specs.LinuxIDMapping) {
	below := min(own, others)
	if below > 0 {
		list = append(list, specs.LinuxIDMapping{ContainerID: 0, HostID: 1, Size: below})
	}
	list = append(list, specs.LinuxIDMapping{ContainerID: own, HostID: 0, Size: 1})
	if others > below {
		list = append(list, specs.LinuxIDMapping{ContainerID: own + 1, HostID: 1 + below, Size: others - below})
	}
	return list
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

// idSource is where IDs come from.
type idSource struct {
	ranges []userns.Range
	words  string // for an error: that teu ..., or that ... grants
	err    error
}

// rangeOfRoot are the IDs that a file grants for the containers of root, or teu has.
func rangeOfRoot(file string) idSource {
	ranges, err := userns.Subordinate(file, subordinateUser, 1<<32-1)
	if err == nil && len(ranges) == 0 {
		return idSource{ranges: []userns.Range{defaultRange()}, words: "teu has without a line for " + subordinateUser + " in " + file}
	}
	return idSource{ranges: ranges, words: file + " grants to the user " + subordinateUser, err: err}
}

// rangeOfUser are the IDs that an ordinary user has besides the own, as they are in the user's
// namespace.
func rangeOfUser(kind string) idSource {
	_, others, err := userns.Own(kind)
	return idSource{ranges: []userns.Range{{Start: 1, Count: others}}, words: "the user was granted in /etc/sub" + kind, err: err}
}

// autoIDs maps size IDs from 0 on.
func autoIDs(from idSource, own []specs.LinuxIDMapping, size uint32, taken []specs.LinuxIDMapping) ([]specs.LinuxIDMapping, error) {
	if from.err != nil {
		return nil, from.err
	}
	list, err := mapIDs(own, size, from.ranges, taken)
	if err != nil {
		return nil, worded(errdefs.ErrResourceExhausted, "--userns auto: %v among those that %s: remove containers, grant more, or ask for fewer with auto:size=", err, from.words)
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
