package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/godbus/dbus/v5"

	"github.com/teu-dev/teu/runner/userns"
)

// patience is how long systemd may take for a job.
const patience = 30 * time.Second

// Manager is the connection to a systemd: the host's, or that of a user.
type Manager struct {
	conn    *dbus.Conn
	signals chan *dbus.Signal
}

// Dial connects to the systemd of the host, or to the one of the user who is not root of
// it; without a bus where that can be, as systemctl does.
func Dial(ctx context.Context) (*Manager, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return nil, fmt.Errorf("systemd does not run on this host, and cannot make control groups: %w", errdefs.ErrNotImplemented)
	}
	var doors []door
	uid := os.Geteuid()
	if uid == 0 {
		doors = append(doors, door{address: "unix:path=/run/systemd/private", uid: uid})
	}
	if User() {
		if userns.Inside() {
			uid = userns.Owner()
		}
		run := cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", uid))
		doors = append(doors, door{address: "unix:path=" + run + "/systemd/private", uid: uid},
			door{address: cmp.Or(os.Getenv("DBUS_SESSION_BUS_ADDRESS"), "unix:path="+run+"/bus"), uid: uid, bus: true})
	} else {
		doors = append(doors, door{address: "unix:path=/run/dbus/system_bus_socket", uid: uid, bus: true})
	}
	var errs []error
	for _, d := range doors {
		m, err := d.open(ctx)
		if err == nil {
			return m, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("talking to systemd: %w", errors.Join(errs...))
}

// User says that whoever asks is not root of the host.
func User() bool { return os.Geteuid() != 0 || userns.Inside() }

// door is a socket that leads to a systemd.
type door struct {
	address string
	uid     int // who we are to it
	bus     bool
}

func (d door) open(ctx context.Context) (m *Manager, err error) {
	conn, err := dbus.Dial(d.address)
	if err != nil {
		return nil, err
	}
	m = &Manager{conn: conn, signals: make(chan *dbus.Signal, 64)}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(d.uid))}); err != nil {
		return nil, err
	}
	conn.Signal(m.signals)
	if !d.bus {
		return m, m.greet(ctx)
	}
	if err := conn.Hello(); err != nil {
		return nil, err
	}
	return m, conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(managerInterface), dbus.WithMatchMember("JobRemoved"))
}

// greet waits until systemd answers. The first message may stay unanswered until another comes (seen with
// systemd 252, perhaps where it was read together with the end of the authentication), so it is asked again.
func (m *Manager) greet(ctx context.Context) error {
	const most = 16
	answered := make(chan *dbus.Call, most)
	wait := 10 * time.Millisecond
	for range most {
		m.object().GoWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0, answered)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case call := <-answered:
			return call.Err
		case <-time.After(wait):
			wait = min(2*wait, patience/most)
		}
	}
	return fmt.Errorf("systemd does not answer: %w", errdefs.ErrUnavailable)
}

// Close ends the connection, if there is one.
func (m *Manager) Close() error {
	if m == nil {
		return nil
	}
	return m.conn.Close()
}

const managerInterface = "org.freedesktop.systemd1.Manager"

func (m *Manager) object() dbus.BusObject {
	return m.conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
}

func (m *Manager) call(ctx context.Context, method string, args ...any) *dbus.Call {
	return m.object().CallWithContext(ctx, managerInterface+"."+method, 0, args...)
}

// Group is the control group a scope has or will have.
func (m *Manager) Group(ctx context.Context, s Scope) (string, error) {
	below, err := s.Path()
	if err != nil {
		return "", err
	}
	var root dbus.Variant
	call := m.object().CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, managerInterface, "ControlGroup")
	if err := call.Store(&root); err != nil {
		return "", fmt.Errorf("asking systemd for its control group: %w", err)
	}
	base, _ := root.Value().(string)
	return path.Join("/", base, below), nil
}

// Start makes a scope, with the process that systemd wants for it and the properties that
// annotations ask for. It ends with its last process.
func (m *Manager) Start(ctx context.Context, s Scope, description string, pid int, annotations map[string]string) error {
	asked, err := annotated(annotations)
	if err != nil {
		return err
	}
	properties := append([]property{
		{"Description", dbus.MakeVariant(description)},
		{"Slice", dbus.MakeVariant(s.Slice)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(pid)})},
		{"Delegate", dbus.MakeVariant(true)},
		{"DefaultDependencies", dbus.MakeVariant(false)},
		{"CPUAccounting", dbus.MakeVariant(true)},
		{"MemoryAccounting", dbus.MakeVariant(true)},
		{"IOAccounting", dbus.MakeVariant(true)},
		{"TasksAccounting", dbus.MakeVariant(true)},
	}, asked...)
	start := func() error { return m.job(ctx, "StartTransientUnit", s.Unit, "fail", properties, []auxiliary(nil)) }
	err = start()
	var refused dbus.Error
	if errors.As(err, &refused) && refused.Name == "org.freedesktop.systemd1.UnitExists" && m.call(ctx, "ResetFailedUnit", s.Unit).Err == nil {
		err = start() // what is left of one that failed has gone with that
	}
	if err != nil {
		return fmt.Errorf("starting scope %s: %w", s.Unit, err)
	}
	return nil
}

// auxiliary is a unit that is made with another one.
type auxiliary struct {
	Name       string
	Properties []property
}

// Set tells systemd of the limits in the files of the scope's group, which it would undo
// otherwise. It has written all that it knows, rounded, when this returns: it applies the
// properties of a scope before it answers (src/core/dbus-scope.c, bus_scope_commit_properties).
func (m *Manager) Set(ctx context.Context, s Scope, files iter.Seq2[string, string]) error {
	return m.set(ctx, s, limits(files))
}

// Change is Set with a way back: undo tells systemd what it knew before.
func (m *Manager) Change(ctx context.Context, s Scope, files iter.Seq2[string, string]) (undo func() error, err error) {
	list := limits(files)
	known, err := m.known(ctx, s, list)
	if err != nil {
		return nil, fmt.Errorf("asking systemd for the limits of scope %s: %w", s.Unit, err)
	}
	undo = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		return m.set(ctx, s, known)
	}
	return undo, m.set(ctx, s, list)
}

// known is list with the values that systemd has for the scope now.
func (m *Manager) known(ctx context.Context, s Scope, list []property) (now []property, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	var unit dbus.ObjectPath
	if err := m.call(ctx, "GetUnit", s.Unit).Store(&unit); err != nil {
		return nil, err
	}
	var all map[string]dbus.Variant
	call := m.conn.Object("org.freedesktop.systemd1", unit).CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", 0, "org.freedesktop.systemd1.Scope")
	if err := call.Store(&all); err != nil {
		return nil, err
	}
	for _, p := range list {
		if value, ok := all[p.Name]; ok {
			now = append(now, property{p.Name, value})
		}
	}
	return now, nil
}

func (m *Manager) set(ctx context.Context, s Scope, list []property) error {
	if len(list) == 0 {
		return nil
	}
	if err := m.call(ctx, "SetUnitProperties", s.Unit, true, list).Err; err != nil {
		return fmt.Errorf("changing scope %s: %w", s.Unit, err)
	}
	return nil
}

// Stop ends a scope. One that has ended is no error.
func (m *Manager) Stop(ctx context.Context, s Scope) error {
	err := m.job(ctx, "StopUnit", s.Unit, "replace")
	_ = m.call(ctx, "ResetFailedUnit", s.Unit).Err // most have not failed
	var refused dbus.Error
	if errors.As(err, &refused) && refused.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stopping scope %s: %w", s.Unit, err)
	}
	return nil
}

// job calls a method that enqueues a job, and waits until it is done.
func (m *Manager) job(ctx context.Context, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var job dbus.ObjectPath
	if err := m.call(ctx, method, args...).Store(&job); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for systemd: %w", ctx.Err())
		case s, ok := <-m.signals:
			if !ok {
				return fmt.Errorf("waiting for systemd: %w", io.ErrUnexpectedEOF)
			}
			if s.Name != managerInterface+".JobRemoved" || len(s.Body) != 4 || s.Body[1] != job {
				continue
			}
			if s.Body[3] != "done" {
				return fmt.Errorf("systemd's job ended as %v: %w", s.Body[3], errdefs.ErrUnavailable)
			}
			return nil
		}
	}
}
