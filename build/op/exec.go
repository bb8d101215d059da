package op

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
)

// execOp runs a command: RUN.
type execOp struct {
	env      *Env
	op       *pb.ExecOp
	vertex   digest.Digest
	platform ocispec.Platform
	inputs   int
	limits   *pb.LinuxResources
	fresh    bool // --no-cache: begin with empty cache mounts

	whole       *pb.Op            // for who is told that it failed
	description map[string]string // likewise

	deps []execDep // by input
}

// execDep says what the command can see of an input.
type execDep struct {
	selectors []string
	byContent bool
}

func (e *Env) execOp(v *graph.Vertex, o *pb.ExecOp) (*execOp, error) {
	x := &execOp{
		env:      e,
		op:       o,
		vertex:   v.Digest,
		platform: v.Platform,
		inputs:   len(v.Inputs),
		limits:   v.Metadata.GetLinuxResources(),
		fresh:    v.Metadata.GetIgnoreCache(),

		whole: v.Op, description: v.Metadata.GetDescription(),
	}
	if o.Meta == nil || len(o.Meta.Args) == 0 {
		return nil, fmt.Errorf("command without arguments: %w", errdefs.ErrInvalidArgument)
	}
	if err := x.checkMounts(); err != nil {
		return nil, err
	}
	if err := x.checkEntitlements(); err != nil {
		return nil, err
	}
	var err error
	if x.deps, err = x.dependencies(); err != nil {
		return nil, err
	}
	e.noteNext(v, networkOf(o.Network))
	return x, nil
}

// noteNext remembers that the command v, with the network n, runs on what another one leaves.
func (e *Env) noteNext(v *graph.Vertex, n Network) {
	for v = v.Below(); v != nil; v = v.Below() {
		if v.Op.GetExec() != nil {
			break
		}
	}
	if v == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nexts == nil {
		e.nexts = map[digest.Digest]Network{}
	}
	e.nexts[v.Digest] = n
}

func networkOf(m pb.NetMode) Network {
	switch m {
	case pb.NetMode_HOST:
		return NetworkHost
	case pb.NetMode_NONE:
		return NetworkNone
	}
	return NetworkDefault
}

// checkMounts makes sure that indexes lead somewhere and that there is exactly one root.
func (x *execOp) checkMounts() error {
	roots, outputs := 0, 0
	for _, m := range x.op.Mounts {
		if reads := m.MountType != pb.MountType_SECRET && m.MountType != pb.MountType_SSH; reads && (m.Input < -1 || int(m.Input) >= x.inputs) {
			return fmt.Errorf("mount %s of input %d of %d: %w", m.Dest, m.Input, x.inputs, errdefs.ErrInvalidArgument)
		}
		if m.Dest == pb.RootMount {
			roots++
			if m.MountType != pb.MountType_BIND {
				return fmt.Errorf("root of type %s: %w", m.MountType, errdefs.ErrInvalidArgument)
			}
		}
		if hasOutput(m) {
			outputs++
		}
	}
	if roots != 1 {
		return fmt.Errorf("command with %d roots: %w", roots, errdefs.ErrInvalidArgument)
	}
	seen := make([]bool, outputs)
	for _, m := range x.op.Mounts {
		if !hasOutput(m) {
			continue
		}
		if int(m.Output) >= outputs || seen[m.Output] {
			return fmt.Errorf("mount %s makes output %d of %d: %w", m.Dest, m.Output, outputs, errdefs.ErrInvalidArgument)
		}
		seen[m.Output] = true
	}
	return nil
}

// hasOutput says whether a mount leaves a state behind. Those of secrets and sockets never do; the
// frontend leaves their output at 0.
func hasOutput(m *pb.Mount) bool {
	return m.Output >= 0 && m.MountType != pb.MountType_SECRET && m.MountType != pb.MountType_SSH
}

// checkEntitlements refuses what the user has to allow.
func (x *execOp) checkEntitlements() error {
	for name, wanted := range map[string]bool{
		"network.host":      x.op.Network == pb.NetMode_HOST,
		"security.insecure": x.op.Security == pb.SecurityMode_INSECURE,
	} {
		if wanted && !slices.Contains(x.env.Entitlements, name) {
			return &entitlementError{name}
		}
	}
	return x.allowDevices()
}

// entitlementError is a step that wants more than a build may do by default.
type entitlementError struct{ name string }

func (e *entitlementError) Error() string { return e.name + " is not allowed in this build" }

func (e *entitlementError) Unwrap() error { return errdefs.ErrPermissionDenied }

// Hint tells the user how to allow it.
func (e *entitlementError) Hint() string { return "allow it with `--allow " + e.name + "`" }

// dependencies is getMountDeps of BuildKit's llbsolver/ops/exec.go. The content of a mount is its
// key only if nothing unselected can get from it into a result, as in BuildKit.
func (x *execOp) dependencies() ([]execDep, error) {
	deps := make([]execDep, x.inputs)
	for i := range deps {
		deps[i].byContent = true
	}
	for _, m := range x.op.Mounts {
		if m.Input < 0 || m.MountType != pb.MountType_BIND && m.MountType != pb.MountType_CACHE {
			continue
		}
		d := &deps[m.Input]
		sel := path.Join("/", m.Selector)
		d.selectors = append(d.selectors, sel)
		safe := m.Output == -1 || m.Readonly || sel == pb.RootMount
		switch {
		case m.ContentCache == pb.MountContentCache_ON && !safe:
			return nil, fmt.Errorf("mount %s cannot be cached by content: %w", m.Dest, errdefs.ErrInvalidArgument)
		case m.ContentCache == pb.MountContentCache_OFF:
			safe = false
		case m.ContentCache == pb.MountContentCache_DEFAULT && m.Dest == pb.RootMount:
			safe = false // expensive, and rarely of use
		}
		// BuildKit lets the last mount of an input decide, which is unsafe if another is not.
		d.byContent = d.byContent && safe
	}
	for i := range deps {
		deps[i].byContent = deps[i].byContent && len(deps[i].selectors) > 0
	}
	return deps, nil
}

// Key implements solver.Op; it is the CacheMap of BuildKit's llbsolver/ops/exec.go with all
// that it leaves out.
func (x *execOp) Key(ctx context.Context) (solver.Key, error) {
	o := x.op.CloneVT()
	o.Meta.ProxyEnv = nil
	for _, h := range o.Meta.ExtraHosts {
		h.IP = ""
	}
	for _, m := range o.Mounts {
		m.Selector = ""
		if c := m.CacheOpt; c != nil && !defaultCache(c, m.Dest) {
			c.ID, c.Sharing = "", pb.CacheSharingOpt_SHARED
		}
	}
	if len(o.Mounts) == 1 && plainRoot(o.Mounts[0]) {
		o.Mounts = nil // the key of old versions had no mounts
	}
	dt, err := json.Marshal(struct {
		Type       string
		Exec       *pb.ExecOp
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
	}{"buildkit.exec.v0", o, x.platform.OS, x.platform.Architecture, x.platform.Variant, x.platform.OSVersion, x.platform.OSFeatures})
	if err != nil {
		return solver.Key{}, err
	}
	selectors := make([]digest.Digest, x.inputs)
	for i, d := range x.deps {
		if len(d.selectors) > 0 {
			selectors[i] = digest.FromString(strings.Join(d.selectors, "\x00"))
		}
	}
	return keyOf(dt, selectors, func(i int) bool { return x.deps[i].byContent }), nil
}

// defaultCache says whether a cache mount has the ID a Dockerfile gives it when it says none.
func defaultCache(c *pb.CacheOpt, dest string) bool {
	_, id, inNamespace := strings.Cut(c.ID, "/")
	return c.Sharing == pb.CacheSharingOpt_SHARED && (c.ID == dest || inNamespace && id == dest)
}

func plainRoot(m *pb.Mount) bool {
	return m.Dest == pb.RootMount && !m.Readonly && m.MountType == pb.MountType_BIND &&
		m.CacheOpt == nil && m.SSHOpt == nil && m.SecretOpt == nil && m.ResultID == ""
}

// ContentKeys implements solver.Op.
func (x *execOp) ContentKeys(ctx context.Context, c *solver.Console, inputs []Result) ([]digest.Digest, error) {
	keys := make([]digest.Digest, len(inputs))
	for i, d := range x.deps {
		if !d.byContent {
			continue
		}
		var sels []selector
		for _, p := range outermost(d.selectors) {
			if p == "/" {
				sels = nil
				break
			}
			s := selector{path: p}
			s.FollowLinks = true
			sels = append(sels, s)
		}
		var err error
		if keys[i], err = x.env.contentDigest(ctx, c, inputs[i], sels); err != nil {
			return nil, err
		}
	}
	return keys, nil
}
