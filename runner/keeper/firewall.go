package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A reload of the host's firewall often flushes all rules, ours too, and nobody of us may
// be awake then but the keepers. So one keeper, the holder of a lock, listens to what
// nftables tells of deletions, and has teu make our table again when it was deleted. The
// others wait for the lock, asleep in the kernel.

// Firewall says which rules a keeper watches over.
type Firewall struct {
	Table  string   // nftables table of the family inet
	Repair []string // the command that makes it again
	Lock   string   // file; who has locked it watches
}

// watcher listens to deletions of the firewall's tables.
type watcher struct {
	firewall Firewall
	env      []string
	socket   *os.File
}

// Message types of nftables (linux/netfilter/nf_tables.h), with the subsystem in the
// upper byte (linux/netfilter/nfnetlink.h).
const (
	nftGetTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE
	nftDelTable = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE
	familyInet  = 1 // NFPROTO_INET
)

// watchFirewall waits for its turn and watches then, until the process ends.
func watchFirewall(f Firewall, env []string) {
	if f.Table == "" || len(f.Repair) == 0 {
		return
	}
	lock, err := os.OpenFile(f.Lock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, "watching the firewall:", err)
		return
	}
	defer lock.Close()
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	var w *watcher
	if err == nil {
		w, err = newWatcher(f, env)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "watching the firewall:", err)
		return
	}
	defer w.socket.Close()
	w.restore() // it may have happened while nobody watched
	w.run()
}

func newWatcher(f Firewall, env []string) (*watcher, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &watcher{firewall: f, env: env, socket: os.NewFile(uintptr(fd), "nftables")}, nil
}

// run watches as long as it can.
func (w *watcher) run() {
	buffer := make([]byte, 16<<10)
	for {
		n, err := w.socket.Read(buffer)
		switch {
		case errors.Is(err, unix.ENOBUFS): // some were lost: look
		case err != nil:
			return
		case !deletesTable(buffer[:n]):
			continue
		}
		time.Sleep(100 * time.Millisecond) // who deleted the table may be about to make others
		w.restore()
	}
}

func (w *watcher) restore() {
	if err := w.repair(); err != nil {
		fmt.Fprintln(os.Stderr, "restoring the network's rules:", err)
	}
}

// deletesTable says whether one of the messages tells of the deletion of a table.
func deletesTable(messages []byte) bool {
	for len(messages) >= unix.NLMSG_HDRLEN {
		size := binary.NativeEndian.Uint32(messages)
		if binary.NativeEndian.Uint16(messages[4:]) == nftDelTable {
			return true
		}
		aligned := (uint64(size) + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		if size < unix.NLMSG_HDRLEN || aligned >= uint64(len(messages)) {
			return false
		}
		messages = messages[aligned:]
	}
	return false
}

// repair runs the command if the table is not there.
func (w *watcher) repair() error {
	there, err := tableExists(w.firewall.Table)
	if there || err != nil {
		return err
	}
	p, err := startProcess(w.firewall.Repair, &os.ProcAttr{Dir: "/", Env: w.env, Files: []*os.File{nil, nil, os.Stderr}})
	if err != nil {
		return err
	}
	state, err := p.Wait()
	if err == nil && !state.Success() {
		err = fmt.Errorf("%s: %s", filepath.Base(w.firewall.Repair[0]), state)
	}
	return err
}

// tableExists asks the kernel for a table of the family inet.
func tableExists(name string) (bool, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	timeout := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return false, err
	}
	// nlmsghdr, nfgenmsg {family, version, resource}, attribute NFTA_TABLE_NAME.
	attribute := append([]byte(name), 0)
	size := unix.NLMSG_HDRLEN + 4 + 4 + len(attribute)
	m := binary.NativeEndian.AppendUint32(nil, uint32(size))
	m = binary.NativeEndian.AppendUint16(m, nftGetTable)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST)
	m = append(m, 1, 0, 0, 0, 0, 0, 0, 0, familyInet, 0, 0, 0)
	m = binary.NativeEndian.AppendUint16(m, uint16(4+len(attribute)))
	m = binary.NativeEndian.AppendUint16(m, unix.NFTA_TABLE_NAME)
	m = append(m, attribute...)
	m = append(m, make([]byte, -len(m)&3)...)
	if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, err
	}
	buffer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buffer, 0)
	if err != nil {
		return false, err
	}
	if n < unix.NLMSG_HDRLEN+4 {
		return false, errors.New("nftables: a short answer")
	}
	if binary.NativeEndian.Uint16(buffer[4:]) != unix.NLMSG_ERROR {
		return true, nil
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(buffer[unix.NLMSG_HDRLEN:])))
	if errno == unix.ENOENT {
		return false, nil
	}
	return errno == 0, errno
}
