package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// nameOf is the name of the default bridge of runRoot, and of its table.
func nameOf(runRoot string) string {
	if runRoot == defaultRunRoot {
		return "teu0"
	}
	sum := sha256.Sum256([]byte(runRoot))
	return "teu" + hex.EncodeToString(sum[:4])
}

// A default bridge says on itself whose it is: the mount namespace, in which alone the path means something, and
// the path of the run directory. A longer one the kernel does not keep (IFALIASZ).
const longestAlias = 255

func markOfRoot(runRoot string) string {
	ns, err := os.Readlink("/proc/self/ns/mnt")
	mark := fmt.Sprintf("teu %s %s", ns, runRoot)
	if err != nil || len(mark) > longestAlias {
		return ""
	}
	return mark
}

// someOrphans is how many bridges are removed at once. Each takes the kernel some time.
const someOrphans = 8

// removeOrphans removes default bridges, with their tables, whose run directory is gone: nobody will say system reset
// there any more. One that something is attached to stays, and what says nothing of its maker.
func removeOrphans() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	used := map[int]bool{}
	for _, l := range links {
		used[l.Attrs().MasterIndex] = true
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		_, path, _ := strings.Cut(a.Alias, "/")
		runRoot := "/" + path
		if l.Type() != "bridge" || used[a.Index] || runRoot == defaultRunRoot || a.Name != nameOf(runRoot) || a.Alias != markOfRoot(runRoot) {
			continue
		}
		if _, err := os.Lstat(runRoot); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, netlink.LinkDel(l), dropTable(a.Name))
		if len(errs) == 2*someOrphans {
			break
		}
	}
	return errors.Join(errs...)
}

// dropTable removes a table, if it is there.
func dropTable(name string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	// Adding before deleting makes the deletion succeed whether or not the table was there.
	conn.DelTable(conn.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet}))
	return conn.Flush()
}
