// Package event owns the journal of what happens to containers and other objects.
//
// There is no daemon that could tell others, so every process that does something appends
// a line to one file, and whoever wants to know follows it:
//
//	DIR/events     JSON lines in the shape of docker's API, the newest last
//	DIR/events.1   those before
//
// The directory is volatile: events are told since the last boot at most, and the oldest
// are dropped when the file has grown to [maxSize]. A line is written by one write(2) with
// O_APPEND, so lines of several processes never mix.
package event

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/coldjson"
)

// Event is something that happened, as docker's API has it (1.51, EventMessage).
type Event struct {
	Type     string // container, image, volume, network, daemon
	Action   string // create, start, die, "health_status: healthy", ...
	Actor    Actor
	Scope    string `json:"scope"` // local
	Time     int64  `json:"time"`  // seconds
	TimeNano int64  `json:"timeNano"`
}

// Actor is what it happened to. The attributes of a container are its labels, image and
// name, and what belongs to the action, such as exitCode or signal.
type Actor struct {
	ID         string
	Attributes map[string]string
}

// Container is the type of events of containers.
const Container = "container"

// maxSize is how large the journal grows before its older half is dropped.
const maxSize = 8 << 20

// Journal is the journal of a directory. It is safe for concurrent use by any number of
// processes. The zero value drops everything.
type Journal struct{ Dir string }

func (j Journal) current() string { return filepath.Join(j.Dir, "events") }
func (j Journal) older() string   { return filepath.Join(j.Dir, "events.1") }

// Append writes an event, with the present time unless it has one.
func (j Journal) Append(e Event) error {
	if j.Dir == "" {
		return nil
	}
	now := time.Now()
	if e.TimeNano == 0 {
		e.TimeNano = now.UnixNano()
	}
	e.Time, e.Scope = e.TimeNano/1e9, "local"
	line, err := coldjson.Marshal(e)
	if err != nil {
		return err
	}
	f, err := j.open()
	if err != nil {
		return fmt.Errorf("opening the journal of events: %w", err)
	}
	defer f.Close()
	_, err = f.Write(append(line, '\n'))
	if st, e := f.Stat(); e == nil && st.Size() > maxSize {
		j.rotate(st)
	}
	return err
}

func (j Journal) open() (*os.File, error) {
	const flags = os.O_CREATE | os.O_WRONLY | os.O_APPEND
	f, err := os.OpenFile(j.current(), flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(j.Dir, 0o700); err == nil {
			f, err = os.OpenFile(j.current(), flags, 0o600)
		}
	}
	return f, err
}

// rotate moves the file full aside unless another process did. A line that somebody still
// writes into it is not lost to those who follow, see [follower.next].
func (j Journal) rotate(full fs.FileInfo) {
	lock, err := os.OpenFile(filepath.Join(j.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return
	}
	defer lock.Close()
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return
	}
	if now, err := os.Stat(j.current()); err == nil && os.SameFile(now, full) {
		os.Rename(j.current(), j.older())
	}
}
