package buildkit

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/dockerfile"
)

// Limits of what a client has at once, and of what makes one container.
const (
	maxContainers = 100
	maxMounts     = 200
	maxHosts      = 1000
)

// A left is what was at a mount of a command that failed.
type left struct {
	failure *op.Failure
	mount   int
	before  bool // it, not what the command made of it
}

func (l left) state(ctx context.Context) (op.Result, error) {
	if !l.before {
		return l.failure.Left(ctx, l.mount)
	}
	res, ok := l.failure.Input(l.mount)
	if !ok {
		return res, fmt.Errorf("the command has found nothing there: %w", errdefs.ErrNotFound)
	}
	return res, nil
}

// failed adds to the error of a command what the client can make containers of.
func (b *bridge) failed(err error) error {
	var f *op.Failure
	if !errors.As(err, &f) || f.Op.GetExec() == nil {
		return err
	}
	n := len(f.Op.GetExec().Mounts)
	inputs, mounts := make([]string, n), make([]string, n)
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range n {
		if len(b.left)+2 > maxRefs {
			break
		}
		if _, ok := f.Input(i); ok {
			inputs[i] = identity.NewID()
			b.left[inputs[i]] = left{failure: f, mount: i, before: true}
		}
		if f.Has(i) {
			mounts[i] = identity.NewID()
			b.left[mounts[i]] = left{failure: f, mount: i}
		}
	}
	return bkerrdefs.WithSolveError(bkerrdefs.WithOp(err, f.Op, f.Description), nil, inputs, mounts)
}

// state returns the filesystem that the client knows by an ID; ok is false if that stands for none.
func (b *bridge) state(ctx context.Context, s build.Sandboxes, id string) (res op.Result, ok bool, err error) {
	b.mu.Lock()
	l, found := b.left[id]
	b.mu.Unlock()
	if found {
		res, err = l.state(ctx)
		return res, true, err
	}
	def, err := b.definition(id)
	if err != nil || len(def.GetDef()) == 0 {
		return res, false, err
	}
	res, err = s.State(ctx, def)
	return res, true, err
}

// NewContainer implements gwpb.LLBBridgeServer. Nothing runs in the container yet.
func (s bridges) NewContainer(ctx context.Context, req *gwpb.NewContainerRequest) (*gwpb.NewContainerResponse, error) {
	err := s.call(ctx, func(ctx context.Context, b *bridge) error {
		if err := checkContainer(req); err != nil {
			return err
		}
		if err := b.reserve(req.ContainerID); err != nil {
			return err
		}
		box, err := b.sandbox(ctx, req)
		b.mu.Lock()
		defer b.mu.Unlock()
		if err != nil {
			delete(b.containers, req.ContainerID)
			return err
		}
		b.containers[req.ContainerID] = box
		return nil
	})
	return &gwpb.NewContainerResponse{}, err
}

func checkContainer(req *gwpb.NewContainerRequest) error {
	switch {
	case req.ContainerID == "":
		return fmt.Errorf("a container without an ID: %w", errdefs.ErrInvalidArgument)
	case len(req.Mounts) > maxMounts:
		return fmt.Errorf("%d mounts: %w", len(req.Mounts), errdefs.ErrInvalidArgument)
	case len(req.ExtraHosts) > maxHosts:
		return fmt.Errorf("%d names of hosts: %w", len(req.ExtraHosts), errdefs.ErrInvalidArgument)
	}
	for i, m := range req.Mounts {
		if m == nil {
			return fmt.Errorf("mount %d is none: %w", i, errdefs.ErrInvalidArgument)
		}
	}
	for i, h := range req.ExtraHosts {
		if h == nil {
			return fmt.Errorf("host %d is none: %w", i, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// reserve takes the ID of a container that is being made.
func (b *bridge) reserve(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.containers[id]; ok {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if len(b.containers) >= maxContainers {
		return fmt.Errorf("%d containers: %w", maxContainers, errdefs.ErrResourceExhausted)
	}
	b.containers[id] = nil
	return nil
}

func (b *bridge) sandbox(ctx context.Context, req *gwpb.NewContainerRequest) (*op.Sandbox, error) {
	s, ok := b.backend.(build.Sandboxes)
	if !ok {
		return nil, unsupported("containers of a frontend")
	}
	o := op.SandboxOptions{Hostname: req.Hostname, Network: req.Network, ExtraHosts: req.ExtraHosts, Platform: content.Host()}
	if p := graph.Platform(req.Platform); p != nil {
		o.Platform = *p
	}
	for _, m := range req.Mounts {
		mount := &pb.Mount{
			Input: int64(pb.Empty), Output: int64(pb.SkipOutput), Dest: m.Dest, Selector: m.Selector, Readonly: m.Readonly, MountType: m.MountType,
			TmpfsOpt: m.TmpfsOpt, CacheOpt: m.CacheOpt, SecretOpt: m.SecretOpt, SSHOpt: m.SSHOpt,
		}
		res, ok, err := b.state(ctx, s, m.ResultID)
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		if ok {
			mount.Input = int64(len(o.Inputs))
			o.Inputs = append(o.Inputs, res)
		}
		o.Mounts = append(o.Mounts, mount)
	}
	return s.NewSandbox(b.ctx, o)
}

// container finds a container that is there.
func (b *bridge) container(id string) (*op.Sandbox, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	box := b.containers[id]
	if box == nil {
		return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	return box, nil
}

// ReleaseContainer implements gwpb.LLBBridgeServer.
func (s bridges) ReleaseContainer(ctx context.Context, req *gwpb.ReleaseContainerRequest) (*gwpb.ReleaseContainerResponse, error) {
	err := s.call(ctx, func(_ context.Context, b *bridge) error {
		box, err := b.container(req.ContainerID)
		if err != nil {
			return err
		}
		b.mu.Lock()
		delete(b.containers, req.ContainerID)
		b.mu.Unlock()
		busy := box.Busy()
		if err := box.Close(); err != nil || !busy {
			return err
		}
		return context.Canceled // as BuildKit says it where processes were ended
	})
	return &gwpb.ReleaseContainerResponse{}, err
}

// closeContainers ends what the client has left.
func (b *bridge) closeContainers() (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, box := range b.containers {
		if box != nil {
			err = errors.Join(err, box.Close())
		}
		delete(b.containers, id)
	}
	return err
}

// look calls do with what is mounted by a mount of a container.
func (s bridges) look(ctx context.Context, id string, mount int32, do func(context.Context, dockerfile.Files) error) error {
	return s.call(ctx, func(ctx context.Context, b *bridge) error {
		box, err := b.container(id)
		if err != nil {
			return err
		}
		files, release, err := build.SandboxFiles(box, int(mount))
		if err != nil {
			return err
		}
		defer release()
		return do(ctx, files)
	})
}

// ReadFileContainer implements gwpb.LLBBridgeServer.
func (s bridges) ReadFileContainer(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	res := &gwpb.ReadFileResponse{}
	return res, s.look(ctx, req.Ref, req.MountIndex, func(ctx context.Context, f dockerfile.Files) (err error) {
		res.Data, err = readFile(ctx, f, req)
		return err
	})
}

// ReadDirContainer implements gwpb.LLBBridgeServer.
func (s bridges) ReadDirContainer(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	res := &gwpb.ReadDirResponse{}
	return res, s.look(ctx, req.Ref, req.MountIndex, func(ctx context.Context, f dockerfile.Files) (err error) {
		res.Entries, err = readDir(ctx, f, req)
		return err
	})
}

// StatFileContainer implements gwpb.LLBBridgeServer.
func (s bridges) StatFileContainer(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	res := &gwpb.StatFileResponse{}
	return res, s.look(ctx, req.Ref, req.MountIndex, func(ctx context.Context, f dockerfile.Files) error {
		i, err := f.Stat(ctx, req.Path)
		if err == nil {
			res.Stat = fileStat(i)
		}
		return err
	})
}
