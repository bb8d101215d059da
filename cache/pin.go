package cache

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/statefile"
)

// A pin is the file ROOT/pins/RANDOM.json. Its process holds it locked, so it is live until it is
// unlocked, by whatever way the process ends; its modification time is when the protection
// began. What it contains is for people, but for the clock.
type pin struct {
	statefile.Process
	Command string `json:"command"`
	clock          // when it began
}

// Pin protects from collection whatever this process makes or touches from now until
// unpin, or until the process dies. Whoever uses several objects one after the other pins first.
func (s *Store) Pin(ctx context.Context) (unpin func() error, err error) {
	self, err := statefile.Self()
	if err != nil {
		return nil, fmt.Errorf("pinning: %w", err)
	}
	began, err := readClock()
	if err != nil {
		return nil, fmt.Errorf("pinning: %w", err)
	}
	path := s.path("pins", rand.Text()+".json")
	// Locked before it has its name. A collection that comes between making and locking removes it
	// for that of a dead process; then Lock makes another.
	temp := path + ".new"
	unlock, err := statefile.Lock(ctx, temp, statefile.LockOptions{})
	if err != nil {
		return nil, fmt.Errorf("pinning: %w", err)
	}
	if err := writePin(temp, path, pin{self, strings.Join(os.Args, " "), began}); err != nil {
		return nil, errors.Join(fmt.Errorf("pinning: %w", err), unlock())
	}
	return func() error {
		// Removed while it is locked: nobody sees it dead.
		return errors.Join(ignoreMissing(os.Remove(path)), unlock())
	}, nil
}

// writePin fills the locked file temp and renames it to path.
func writePin(temp, path string, p pin) error {
	data, err := json.Marshal(p)
	if err == nil {
		err = os.WriteFile(temp, data, 0o600) // in place: a new file would not be the locked one
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// oldestPin returns when the oldest live pin began, or later if none is older. It removes the
// pins of dead processes.
func (s *Store) oldestPin(later time.Time) (time.Time, error) {
	entries, err := os.ReadDir(s.path("pins"))
	if err != nil {
		return time.Time{}, err
	}
	now, err := readClock()
	if err != nil {
		return time.Time{}, err
	}
	oldest := later
	for _, e := range entries {
		began, live, err := inspectPin(s.path("pins", e.Name()), now)
		if err != nil {
			return time.Time{}, err
		}
		if live && began.Before(oldest) {
			oldest = began
		}
	}
	return oldest, nil
}

// inspectPin says whether the pin at path is live, and removes it if not.
func inspectPin(path string, now clock) (began time.Time, live bool, err error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, err
	}
	unlock, dead, err := tryLockExisting(path)
	if err != nil {
		return time.Time{}, false, err
	}
	if !dead {
		p := pin{clock: now}
		_ = statefile.Read(path, &p) // one that is just being made knows nothing else
		return p.correct(fi.ModTime(), now), true, nil
	}
	return time.Time{}, false, errors.Join(ignoreMissing(os.Remove(path)), unlock())
}

// tryLockExisting is statefile.TryLock of a file that is not made if it is missing; that counts as locked.
func tryLockExisting(path string) (unlock func() error, ok bool, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return func() error { return nil }, true, nil
	}
	return statefile.TryLock(path, statefile.LockOptions{})
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// A Lease protects objects for as long as it exists, whichever process made it.
type Lease struct {
	Manifest  digest.Digest `json:"manifest,omitempty"` // and what it refers to
	Layers    []string      `json:"layers,omitempty"`
	Snapshots []string      `json:"snapshots,omitempty"`

	// Volatile is what nobody wants back after the machine went down: the lease costs no
	// sync, and may be gone then.
	Volatile bool `json:"-"`
}

// The files of leases. A volatile one that cannot be read protects nothing.
const (
	leaseExt         = ".json"
	volatileLeaseExt = ".volatile"
)

// nodes returns the objects of the lease.
func (l Lease) nodes() []node {
	nodes := layerNodes(l.Layers)
	if l.Manifest != "" {
		nodes = append(nodes, blobNode(l.Manifest))
	}
	for _, id := range l.Snapshots {
		nodes = append(nodes, node{KindSnapshot, id})
	}
	return nodes
}

// Lease records l under name, replacing the one of its kind there, durably unless it is volatile. The
// objects must be protected by a pin until Lease has returned.
func (s *Store) Lease(ctx context.Context, name string, l Lease) error {
	path, err := s.leasePath(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	ext := leaseExt
	if l.Volatile {
		ext = volatileLeaseExt
	}
	if err := statefile.Write(path+ext, l, statefile.WriteOptions{Durable: !l.Volatile}); err != nil {
		return fmt.Errorf("leasing for %s: %w", name, err)
	}
	return nil
}

// Unlease drops a lease. A missing one is not an error.
func (s *Store) Unlease(ctx context.Context, name string) error {
	path, err := s.leasePath(name)
	if err != nil {
		return err
	}
	return errors.Join(ignoreMissing(os.Remove(path+leaseExt)), ignoreMissing(os.Remove(path+volatileLeaseExt)))
}

// leasePath is the path of a lease without its extension.
func (s *Store) leasePath(name string) (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	if name == "" || name[0] == '.' || len(name) > 200 || strings.Trim(name, letters) != "" {
		return "", fmt.Errorf("lease %.200q: not a name: %w", name, errdefs.ErrInvalidArgument)
	}
	return s.path("leases", name), nil
}

// leases returns all leases. A durable one that cannot be read might protect anything, so it is an error beside the others.
func (s *Store) leases() (all []Lease, failed error) {
	entries, err := os.ReadDir(s.path("leases"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if ext != leaseExt && ext != volatileLeaseExt {
			continue
		}
		var l Lease
		err := statefile.Read(s.path("leases", e.Name()), &l)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errdefs.ErrDataLoss) && ext == volatileLeaseExt {
			continue
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		l.Volatile = ext == volatileLeaseExt
		all = append(all, l)
	}
	return all, failed
}
