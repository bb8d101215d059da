package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/statefile"
)

// TestAutoIDsDisjoint creates containers from several engines at once: no two have an ID in
// common, and the IDs of those that are gone, whole or half made, are given again.
func TestAutoIDsDisjoint(t *testing.T) {
	e := newEngine(t)
	other := open(e.Root, e.RunRoot)
	o := sh("true")
	o.UsernsMode = "auto"
	made := make([]*Container, 12)
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() {
			c, err := []*Engine{e, other}[i%2].Create(t.Context(), "", o)
			if err != nil {
				t.Error(err)
			}
			made[i] = c
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	var uids, gids []specs.LinuxIDMapping
	for _, c := range made {
		u, g := c.UserIDs.UIDs, c.UserIDs.GIDs
		if len(u) != 1 || len(g) != 1 || u[0].ContainerID != 0 || u[0].Size != defaultIDs || u[0].HostID < 1<<31 {
			t.Fatalf("IDs of %s: %+v %+v", c.ID, u, g)
		}
		// Inside everybody is 0 to 65535; outside nobody is anybody twice.
		u[0].ContainerID, g[0].ContainerID = u[0].HostID, g[0].HostID
		if overlaps(uids, u[0]) || overlaps(gids, g[0]) {
			t.Errorf("IDs are given twice: %+v among %+v, %+v among %+v", u, uids, g, gids)
		}
		uids, gids = append(uids, u[0]), append(gids, g[0])
	}
	// One that was removed, and one whose maker died before there was a container.
	gone := []uint32{uids[3].HostID, uids[7].HostID}
	if err := e.Remove(t.Context(), made[3].ID, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	dead := statefile.Process{PID: 1 << 22, StartTime: 1}
	err := statefile.Write(filepath.Join(e.dir(made[7].ID), makerName), &dead, statefile.WriteOptions{})
	if err == nil {
		err = os.Remove(e.configFile(made[7].ID))
	}
	if err == nil {
		err = e.sweep(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	for range gone {
		c, err := other.Create(t.Context(), "", o)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(gone, c.UserIDs.UIDs[0].HostID) {
			t.Errorf("got %+v, want one of %v again", c.UserIDs.UIDs, gone)
		}
	}
}

// TestSharedIDsStayTaken removes the container whose user namespace another shares: nobody else gets the
// IDs, which the other still has, until that is removed too.
func TestSharedIDsStayTaken(t *testing.T) {
	e := newEngine(t)
	create := func(mode string) *Container {
		t.Helper()
		o := sh("true")
		o.UsernsMode = mode
		c, err := e.Create(t.Context(), "", o)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	remove := func(c *Container) {
		t.Helper()
		if err := e.Remove(t.Context(), c.ID, RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	one := create("auto")
	two := create("container:" + one.ID)
	remove(one)
	if three := create("auto"); three.UserIDs.UIDs[0].HostID == two.UserIDs.UIDs[0].HostID {
		t.Errorf("%+v are given again", three.UserIDs.UIDs)
	}
	remove(two)
	if four := create("auto"); four.UserIDs.UIDs[0].HostID != two.UserIDs.UIDs[0].HostID {
		t.Errorf("got %+v, want %+v again", four.UserIDs.UIDs, two.UserIDs.UIDs)
	}
}

// TestUserNamespaceRootIsNobody is what the namespace is for: with all that --privileged and
// the host's processes give, root inside has no right over what is the host's.
func TestUserNamespaceRootIsNobody(t *testing.T) {
	e := newEngine(t)
	host, open := t.TempDir(), t.TempDir()
	for name, mode := range map[string]os.FileMode{"public": 0o644, "secret": 0o600} {
		if err := os.WriteFile(filepath.Join(host, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for dir, mode := range map[string]os.FileMode{host: 0o755, open: 0o777} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, host)
	o := sh(`
cat /host/public && ! cat /host/secret && ! touch /host/new && ! rm /host/public && ! sh -c 'echo x >/host/public' &&
! busybox chmod 777 /host/secret && ! busybox chown 0 /host/secret && ! busybox mv /host/public /host/moved &&
! kill -9 $OUTSIDE && ! cat /proc/$OUTSIDE/environ && ! ls /proc/$OUTSIDE/root/ && ! busybox nsenter -t $OUTSIDE -m true &&
! busybox mknod /open/null c 1 3 && ! sh -c 'echo x >/proc/sys/kernel/core_pattern' && ! busybox dmesg -n 1 &&
busybox cp /bin/busybox /open/su && busybox chmod 4755 /open/su && busybox cp /bin/busybox /store/su && busybox chmod 4755 /store/su &&
echo held`)
	o.UsernsMode, o.Privileged, o.PIDMode = "auto", true, "host"
	o.Env = []string{fmt.Sprintf("OUTSIDE=%d", os.Getpid())}
	o.Mounts = []MountRequest{
		{Type: "bind", Source: host, Target: "/host"}, {Type: "bind", Source: open, Target: "/open"}, {Type: "volume", Source: "store", Target: "/store"},
	}
	stdout, stderr, status := run(t, e, o)
	if status.Code != 0 || !strings.HasSuffix(stdout, "held\n") {
		t.Fatalf("%d: %s %s", status.Code, stdout, stderr)
	}
	if after := tree(t, host); !slices.Equal(before, after) {
		t.Errorf("the host's files have changed from %q to %q", before, after)
	}
	// A setuid file is one of the container's root where the host's IDs hold, and where the
	// image's do nobody else can get at it.
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(open, "su"), &st); err != nil || st.Uid < 1<<31 {
		t.Errorf("the owner of a setuid file is %d, %v", st.Uid, err)
	}
	v, err := e.Volume("store")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Stat(filepath.Join(v.Mountpoint, "su"), &st); err != nil || st.Mode&syscall.S_ISUID == 0 || st.Uid != 0 {
		t.Errorf("the file in the volume: %+v, %v", st, err)
	}
	if err := syscall.Stat(e.volumes(), &st); err != nil || st.Mode&0o077 != 0 {
		t.Errorf("others reach the volumes: mode %o, %v", st.Mode, err)
	}
}

// tree describes the files of a directory.
func tree(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range entries {
		var st syscall.Stat_t
		err := syscall.Lstat(filepath.Join(dir, d.Name()), &st)
		b, _ := os.ReadFile(filepath.Join(dir, d.Name()))
		list = append(list, fmt.Sprint(d.Name(), st.Ino, st.Mode, st.Uid, st.Gid, st.Nlink, string(b), err))
	}
	return list
}

// TestUserNamespaceOfNetwork sees that a container's user namespace owns its network, also
// after a restart, and that none is left when it ends.
func TestUserNamespaceOfNetwork(t *testing.T) {
	e := newEngine(t)
	o := sh("ip addr add 10.9.9.9/32 dev lo && cat /proc/sys/net/ipv4/ping_group_range && ls /sys/class/net")
	o.UsernsMode, o.CapAdd, o.Network = "auto", []string{"NET_ADMIN"}, "bridge"
	c := detached(t, e, "", o)
	for i := range 2 {
		status, err := e.Wait(t.Context(), c.ID)
		if err == nil {
			err = e.Finish(t.Context(), c.ID)
		}
		if err != nil || status.Code != 0 {
			t.Fatalf("run %d: %+v, %v", i, status, err)
		}
		if _, err := os.Stat(e.network.NetNSPath(c.ID)); !os.IsNotExist(err) {
			t.Errorf("a namespace is left: %v", err)
		}
		if i == 0 {
			if _, err := e.Start(t.Context(), c.ID, StartOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
