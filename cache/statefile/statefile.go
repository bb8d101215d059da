// Package statefile owns the small JSON documents in which teu keeps its state, and
// the locks and process identities that protect them.
//
// A document is written to a temporary name beside it and renamed, so a reader sees
// the old or the new one and never takes a lock. A lock is a flock on a file of its
// own, so the kernel gives it back when its holder dies.
package statefile

import (
	"context"
	"errors"
)

var errTODO = errors.New("not written yet")

// WriteOptions change how Write works.
type WriteOptions struct {
	// Durable makes the document survive a power loss once Write has returned: the
	// file and its directory are fsynced.
	Durable bool
}

// Write stores v as JSON at path, replacing what is there in one step. The directory must exist.
func Write(path string, v any, o WriteOptions) error { return errTODO }

// Read decodes the JSON document at path into v. A missing document is both an
// errdefs.ErrNotFound and an fs.ErrNotExist. Documents larger than 8 MiB are refused.
func Read(path string, v any) error { return errTODO }

// LockOptions change how Lock and TryLock work.
type LockOptions struct {
	// Shared takes a lock that others may hold too, but not while one holds it exclusively.
	Shared bool
}

// Lock waits for the lock named path, creating its file, until ctx ends. The file
// stays: removing it would let two holders lock two inodes of one name.
func Lock(ctx context.Context, path string, o LockOptions) (unlock func() error, err error) {
	return nil, errTODO
}

// TryLock is Lock without waiting; ok says whether the lock was taken.
func TryLock(path string, o LockOptions) (unlock func() error, ok bool, err error) {
	return nil, false, errTODO
}

// BootID returns the kernel's identity of this boot.
func BootID() (string, error) { return "", errTODO }

// Process names a process so that a later process with the same pid is not mistaken for it.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks after boot, proc_pid_stat(5) field 22
	BootID    string `json:"bootID"`
}

// Self identifies the calling process.
func Self() (Process, error) { return Process{}, errTODO }

// Identify identifies the process pid. A missing one is an errdefs.ErrNotFound.
func Identify(pid int) (Process, error) { return Process{}, errTODO }

// Alive says whether the process still runs; a zombie does not.
func (p Process) Alive() bool { return false }
