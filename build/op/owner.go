package op

import (
	"bytes"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"

	"github.com/teu-dev/teu/cache/rootfs"
)

// resolveOwner turns the owner of an action into numbers. trees gives the tree with the passwd
// or group file for an input. A name or file that is missing counts as 0, as in BuildKit.
func resolveOwner(o *pb.ChownOpt, trees func(input int64) (*rootfs.Dir, func() error, error)) (*owner, error) {
	if o == nil {
		return nil, nil
	}
	var own owner
	switch u := o.GetUser().GetUser().(type) {
	case *pb.UserOpt_ByID:
		own = owner{int(u.ByID), int(u.ByID)}
	case *pb.UserOpt_ByName:
		err := inFile(u.ByName, "/etc/passwd", trees, func(data []byte, name string) error {
			users, err := user.ParsePasswdFilter(bytes.NewReader(data), func(u user.User) bool { return u.Name == name })
			if err == nil && len(users) > 0 {
				own = owner{users[0].Uid, users[0].Gid}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	switch g := o.GetGroup().GetUser().(type) {
	case *pb.UserOpt_ByID:
		own.gid = int(g.ByID)
	case *pb.UserOpt_ByName:
		err := inFile(g.ByName, "/etc/group", trees, func(data []byte, name string) error {
			groups, err := user.ParseGroupFilter(bytes.NewReader(data), func(g user.Group) bool { return g.Name == name })
			if err == nil && len(groups) > 0 {
				own.gid = groups[0].Gid
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return &own, nil
}

func inFile(n *pb.NamedUserOpt, file string, trees func(int64) (*rootfs.Dir, func() error, error), parse func([]byte, string) error) (err error) {
	if n.Input < 0 {
		return fmt.Errorf("owner %q of no input: %w", n.Name, errdefs.ErrInvalidArgument)
	}
	dir, release, err := trees(n.Input)
	if err != nil {
		return err
	}
	defer func() {
		if e := release(); err == nil {
			err = e
		}
	}()
	data, err := readInput(dir, file)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := parse(data, n.Name); err != nil {
		return fmt.Errorf("%s: %w: %w", file, errdefs.ErrInvalidArgument, err)
	}
	return nil
}
