package op

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// An execRun is one run of a command.
type execRun struct {
	*execOp
	console *solver.Console
	inputs  []Result

	process Process
	root    *mutable
	states  map[int]*mutable  // by mount, for who asks what a failed command has left
	kept    bool              // they are the Failure's
	memory  memory            // files that are only in memory
	caches  map[int]*cacheDir // by mount
	outputs []output
	views   map[int]*os.File // mounts of states and directories, for who wants to look at them; nil: nobody does
	release []func() error   // in the order of making; called backwards
}

// An output is what a mount leaves behind: a state that was changed, or what was there before.
type output struct {
	m      *mutable
	result Result
}

// Run implements solver.Op.
func (x *execOp) Run(ctx context.Context, c *solver.Console, inputs []Result) (out []Result, err error) {
	if x.env.Executor == nil {
		return nil, fmt.Errorf("running a command: %w", errdefs.ErrNotImplemented)
	}
	r := &execRun{execOp: x, console: c, inputs: inputs, caches: map[int]*cacheDir{}}
	defer func() {
		for _, f := range slices.Backward(r.release) {
			err = errors.Join(err, f())
		}
	}()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	stubs := r.findStubs()
	if err := r.run(ctx); err != nil {
		return nil, r.keep(err, stubs)
	}
	if err := r.removeStubs(stubs); err != nil {
		return nil, fmt.Errorf("removing mount points: %w", err)
	}
	for _, o := range r.outputs {
		if o.m != nil {
			if o.result, err = o.m.commit(ctx); err != nil {
				return nil, err
			}
		}
		out = append(out, o.result)
	}
	return out, nil
}

// run runs the command and judges how it ended.
func (r *execRun) run(ctx context.Context) error {
	err := r.env.Executor.Run(ctx, r.process)
	if told := r.foreign(err); told != err {
		return told
	}
	var exit *ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	code := 0
	if exit != nil {
		code = exit.Code
	}
	valid := r.op.Meta.ValidExitCodes
	if len(valid) == 0 {
		valid = []int32{0}
	}
	if slices.Contains(valid, int32(code)) {
		return nil
	}
	if err == nil {
		return &ExitError{Command: strings.Join(r.op.Meta.Args, " ")}
	}
	var start *startError
	if errors.As(err, &start) {
		start.command = strings.Join(r.op.Meta.Args, " ")
	} else if exit != nil {
		exit.Command = strings.Join(r.op.Meta.Args, " ")
		exit.DiskFull = r.env.full() // now: what the command wrote goes with it
	}
	return err
}

// foreign explains err where it comes from a program for another machine.
func (x *execOp) foreign(err error) error {
	if host := content.Host(); errors.Is(err, unix.ENOEXEC) && x.platform.Architecture != host.Architecture {
		return fmt.Errorf("this machine (%s/%s) cannot run programs for %s/%s: register an emulator with binfmt_misc, as the package qemu-user-static does: %w",
			host.OS, host.Architecture, x.platform.OS, x.platform.Architecture, err)
	}
	return err
}

// full says whether the disk of the store has no room.
func (e *Env) full() bool {
	const little = 1 << 20
	var fs unix.Statfs_t
	return unix.Statfs(e.Store.Root(), &fs) == nil && fs.Bavail*uint64(fs.Bsize) < little
}

// prepare makes everything the command needs.
func (r *execRun) prepare(ctx context.Context) error {
	meta := r.op.Meta
	r.process = Process{
		Args:      meta.Args,
		Env:       slices.Clone(meta.Env),
		Cwd:       meta.Cwd,
		User:      meta.User,
		Hostname:  meta.Hostname,
		Insecure:  r.op.Security == pb.SecurityMode_INSECURE,
		Ulimits:   meta.Ulimit,
		Cgroup:    meta.CgroupParent,
		Resources: r.limits,
		Stdout:    r.console.Stdout(),
		Stderr:    r.console.Stderr(),
	}
	if r.process.Cwd == "" {
		r.process.Cwd = "/"
	}
	if r.process.Hostname == "" {
		r.process.Hostname = "buildkitsandbox" // programs are known to look for it
	}
	r.process.Network = networkOf(r.op.Network)
	r.env.mu.Lock()
	if next, ok := r.env.nexts[r.vertex]; ok {
		r.process.Next = &next
	}
	r.env.mu.Unlock()
	if err := r.environment(ctx); err != nil {
		return err
	}
	var err error
	if r.process.Devices, err = r.deviceEdits(); err != nil {
		return err
	}
	return r.mounts(ctx)
}

// environment adds what a command gets without being part of its key or of the image.
func (r *execRun) environment(ctx context.Context) error {
	env := &r.process.Env
	if p := r.op.Meta.ProxyEnv; p != nil {
		for _, v := range [][2]string{
			{"HTTP_PROXY", p.HttpProxy},
			{"HTTPS_PROXY", p.HttpsProxy},
			{"FTP_PROXY", p.FtpProxy},
			{"NO_PROXY", p.NoProxy},
			{"ALL_PROXY", p.AllProxy},
		} {
			if v[1] != "" {
				*env = append(*env, v[0]+"="+v[1], strings.ToLower(v[0])+"="+v[1])
			}
		}
	}
	return r.env.complete(ctx, env, r.op.Secretenv)
}

// addDefault adds a variable, NAME=value, unless it is there.
func addDefault(env *[]string, v string) {
	name := v[:strings.IndexByte(v, '=')+1]
	if !slices.ContainsFunc(*env, func(kv string) bool { return strings.HasPrefix(kv, name) }) {
		*env = append(*env, v)
	}
}

// complete adds to env a PATH and what secrets are to stand in it.
func (e *Env) complete(ctx context.Context, env *[]string, list []*pb.SecretEnv) error {
	addDefault(env, defaultPath)
	for _, s := range list {
		value, err := e.secret(ctx, s.GetID())
		if errdefs.IsNotFound(err) && s.GetOptional() {
			value, err = nil, nil
		}
		if err != nil {
			return fmt.Errorf("environment variable %s: %w", s.GetName(), err)
		}
		*env = append(*env, s.GetName()+"="+string(value))
	}
	return nil
}

// later notes what is to be done when the command has ended.
func (r *execRun) later(f func() error) { r.release = append(r.release, f) }

// mounts makes the root and all mounts.
func (r *execRun) mounts(ctx context.Context) error {
	outputs := 0
	for _, m := range r.op.Mounts {
		if hasOutput(m) {
			outputs++
		}
	}
	r.outputs = make([]output, outputs)
	r.later(r.memory.close)
	if err := r.systemFiles(); err != nil {
		return err
	}
	if err := r.openCaches(ctx); err != nil {
		return err
	}
	for i, m := range r.op.Mounts {
		if err := r.mount(ctx, i, m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Dest, err)
		}
	}
	slices.SortStableFunc(r.process.Mounts, func(a, b Mount) int { return strings.Compare(a.Target, b.Target) })
	return nil
}

func (r *execRun) mount(ctx context.Context, index int, m *pb.Mount) error {
	var in Result
	if m.Input >= 0 {
		in = r.inputs[m.Input]
	}
	if m.Dest == pb.RootMount {
		return r.mountRoot(ctx, index, m, in)
	}
	switch m.MountType {
	case pb.MountType_BIND:
		return r.mountBind(ctx, index, m, in)
	case pb.MountType_CACHE:
		return r.mountCache(index, m, in)
	case pb.MountType_TMPFS:
		opts := []string{"nosuid"}
		if m.Readonly {
			opts = append(opts, "ro")
		}
		if size := m.TmpfsOpt.GetSize(); size > 0 {
			opts = append(opts, fmt.Sprintf("size=%d", size))
		}
		r.add(m, Mount{Options: opts})
		return nil
	case pb.MountType_SECRET:
		return r.mountSecret(ctx, m)
	case pb.MountType_SSH:
		return r.mountSSH(ctx, index, m)
	}
	return fmt.Errorf("type %s: %w", m.MountType, errdefs.ErrNotImplemented)
}

// add appends a mount for m, at its place in the container.
func (r *execRun) add(m *pb.Mount, mnt Mount) {
	mnt.Target = path.Clean(m.Dest)
	if !path.IsAbs(mnt.Target) {
		mnt.Target = path.Join("/", r.process.Cwd, m.Dest)
	}
	r.process.Mounts = append(r.process.Mounts, mnt)
}

// change returns a state that begins as in and is dropped unless it is committed.
func (r *execRun) change(ctx context.Context, index int, in Result) (*mutable, error) {
	m, err := r.env.prepare(ctx, r.console, in)
	if err != nil {
		return nil, err
	}
	if r.states == nil {
		r.states = map[int]*mutable{}
	}
	r.states[index] = m
	r.later(func() error {
		if r.kept {
			return m.close()
		}
		return m.discard(ctx)
	})
	return m, nil
}

func (r *execRun) mountRoot(ctx context.Context, index int, m *pb.Mount, in Result) error {
	root, err := r.change(ctx, index, in)
	if err != nil {
		return err
	}
	r.root = root
	if r.process.Root, err = root.overlay(); err != nil {
		return err
	}
	r.process.ReadOnly = m.Readonly
	if r.process.Files, err = root.before(); err != nil {
		return err
	}
	if m.Output >= 0 {
		r.outputs[m.Output] = output{m: root}
	}
	return nil
}

// mountBind shows a state. A command may write to it unless it is read-only; without an
// output what it wrote is dropped, as in BuildKit.
func (r *execRun) mountBind(ctx context.Context, index int, m *pb.Mount, in Result) error {
	var err error
	var changed *mutable
	if !m.Readonly || m.Input < 0 {
		if changed, err = r.change(ctx, index, in); err != nil {
			return err
		}
	}
	if m.Output >= 0 {
		r.outputs[m.Output] = output{m: changed}
		if m.Readonly && m.Input >= 0 {
			r.outputs[m.Output] = output{result: in}
		}
	}
	var lowers []string
	if changed == nil {
		if lowers, _, err = r.env.lowers(ctx, r.console, in); err != nil {
			return err
		}
	}
	whole, err := openMutable(changed, lowers)
	if err != nil {
		return err
	}
	dir := newDir(whole)
	defer dir.Close()
	d, err := detach(dir, m.Selector, whole)
	if err != nil {
		return err
	}
	return r.attach(index, m, d)
}

// attach adds a mount of d, which is closed when the command has ended.
func (r *execRun) attach(index int, m *pb.Mount, d detached) error {
	r.later(d.Close)
	if r.views != nil {
		r.views[index] = d.File
	}
	mnt := Mount{Source: d.File, File: d.file}
	if m.Readonly {
		mnt.Options = []string{"ro"}
	}
	r.add(m, mnt)
	return nil
}

// openCaches opens the directories of cache mounts, ordered by key: of two steps that want the same locked ones, the
// one that has to wait then has none that the other waits for.
func (r *execRun) openCaches(ctx context.Context) error {
	byKey := map[string][]int{} // mounted twice it is one directory, and locked once
	for i, m := range r.op.Mounts {
		if m.MountType != pb.MountType_CACHE || m.Dest == pb.RootMount {
			continue
		}
		if m.CacheOpt == nil {
			return fmt.Errorf("mount %s: cache mount without options: %w", m.Dest, errdefs.ErrInvalidArgument)
		}
		key, err := r.env.cacheKey(ctx, r.console, m.CacheOpt.ID, r.input(m))
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		byKey[key] = append(byKey[key], i)
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		m := r.op.Mounts[byKey[key][0]]
		dir, err := r.env.openCache(ctx, r.console, key, m.CacheOpt, r.input(m), r.fresh)
		if err != nil {
			return fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		r.later(dir.close)
		for _, i := range byKey[key] {
			r.caches[i] = dir
		}
	}
	return nil
}

// input is what m begins with, nil for nothing.
func (r *execRun) input(m *pb.Mount) *Result {
	if m.Input < 0 {
		return nil
	}
	return &r.inputs[m.Input]
}

// mountCache shows a directory that outlives the build.
func (r *execRun) mountCache(index int, m *pb.Mount, in Result) error {
	if m.Output >= 0 {
		r.outputs[m.Output] = output{result: in}
	}
	d, err := detach(r.caches[index].Dir, m.Selector, nil)
	if err != nil {
		return err
	}
	return r.attach(index, m, d)
}
