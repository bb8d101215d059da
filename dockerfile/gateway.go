package dockerfile

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// A gateway is buildkitd as the frontend sees it.
type gateway struct {
	backend Backend
	host    ocispec.Platform
	attrs   map[string]string
	words   *expansion
	session string
	inputs  map[string]*pb.Definition

	mu      sync.Mutex
	ignores error // why what a .dockerignore says is not taken: the frontend passes over a failure to read one
}

var _ client.Client = (*gateway)(nil)

func newGateway(b Backend, host ocispec.Platform, attrs map[string]string) *gateway {
	args := map[string]string{}
	for key, value := range attrs {
		if name, ok := strings.CutPrefix(key, "build-arg:"); ok {
			args[name] = value
		}
	}
	return &gateway{backend: b, host: host, attrs: attrs, words: &expansion{args: args}, session: "teu"}
}

// BuildOpts implements client.Client.
func (g *gateway) BuildOpts() client.BuildOpts {
	return client.BuildOpts{
		Opts:      g.attrs, // shared: the frontend writes to it
		SessionID: g.session,
		Product:   "teu",
		Workers:   []client.WorkerInfo{{Platforms: []ocispec.Platform{g.host}}},
		// Without capabilities the frontend panics on a writable bind mount and silently
		// makes a plain copy of COPY --link.
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()),
		Caps:    gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
}

// Solve implements client.Client. Nothing is solved until a file of the result is read.
func (g *gateway) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	if req.Frontend != "" {
		return g.forward(ctx, req)
	}
	res := client.NewResult()
	if req.Definition == nil {
		return res, nil
	}
	ref := &reference{g: g, def: req.Definition}
	res.SetRef(ref)
	if req.Evaluate {
		return res, ref.Evaluate(ctx)
	}
	return res, nil
}

// forward answers a "# syntax" line. Every released docker/dockerfile is this one frontend.
func (g *gateway) forward(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	source := req.FrontendOpt["source"]
	if err := checkFrontend(source); err != nil {
		return nil, err
	}
	sub := newGateway(g.backend, g.host, req.FrontendOpt)
	sub.session, sub.inputs = g.session, req.FrontendInputs
	if sub.attrs["cmdline"] == "" {
		sub.attrs["cmdline"] = source // or it would forward again
	}
	return sub.build(ctx)
}

// checkFrontend refuses an image with a frontend that is not the one we have.
func checkFrontend(source string) error {
	if builtin(source) {
		return nil
	}
	return fmt.Errorf("syntax=%s is a frontend that is not built in; docker/dockerfile is: %w", source, errdefs.ErrNotImplemented)
}

// builtin says whether the image named by a "# syntax" line is the frontend we have, on Docker Hub or on a
// mirror of it: HOST/PATH/docker/dockerfile.
func builtin(ref string) bool {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		ref = ref[:i]
	}
	path := "/" + ref
	return ref == "dockerfile.v0" || strings.HasSuffix(path, "/docker/dockerfile") || strings.HasSuffix(path, "/docker/dockerfile-upstream")
}

// ResolveImageConfig implements client.Client.
func (g *gateway) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	var o ImageOptions
	if opt.ImageOpt != nil {
		o.Platform, o.Mode = opt.ImageOpt.Platform, opt.ImageOpt.ResolveMode
	}
	if opt.OCILayoutOpt != nil {
		o.Platform, o.Layout = opt.OCILayoutOpt.Platform, opt.OCILayoutOpt.Store.StoreID
	}
	if o.Mode == "" {
		o.Mode = "default"
	}
	img, err := g.backend.ResolveImage(ctx, opt.LogName, ref, o)
	if err != nil {
		return "", "", nil, err
	}
	return img.Ref, digest.Digest(img.Digest), img.Config, g.words.base(img.Config)
}

// ResolveSourceMetadata implements client.Client. The frontend asks for git commits and
// modification times only for the symbolic values of SOURCE_DATE_EPOCH.
func (g *gateway) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	ref, isImage := strings.CutPrefix(op.Identifier, "docker-image://")
	if !isImage {
		return g.describe(ctx, op, opt)
	}
	ref, dgst, config, err := g.ResolveImageConfig(ctx, ref, opt)
	if err != nil {
		return nil, err
	}
	op.Identifier = "docker-image://" + ref // where a policy made another of it
	return &sourceresolver.MetaResponse{Op: op, Image: &sourceresolver.ResolveImageResponse{Digest: dgst, Config: config}}, nil
}

func (g *gateway) describe(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	info, err := g.backend.DescribeSource(ctx, opt.LogName, op)
	if err != nil {
		return nil, err
	}
	res := &sourceresolver.MetaResponse{Op: op}
	switch {
	case info.Commit != "":
		res.Git = &sourceresolver.ResolveGitResponse{Checksum: info.Commit, CommitObject: info.Object}
	case info.Digest != "":
		res.HTTP = &sourceresolver.ResolveHTTPResponse{Digest: digest.Digest(info.Digest), Filename: info.Filename, LastModified: info.Modified}
	}
	return res, nil
}

// Inputs implements client.Client.
func (g *gateway) Inputs(context.Context) (map[string]llb.State, error) {
	states := map[string]llb.State{}
	for name, def := range g.inputs {
		op, err := llb.NewDefinitionOp(def)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		states[name] = llb.NewState(op)
	}
	return states, nil
}

// NewContainer implements client.Client.
func (g *gateway) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, fmt.Errorf("containers of a frontend: %w", errdefs.ErrNotImplemented)
}

// Warn implements client.Client.
func (g *gateway) Warn(_ context.Context, vertex digest.Digest, msg string, o client.WarnOpts) error {
	w := Warning{Vertex: vertex.String(), Text: msg, URL: o.URL, Level: o.Level, Where: location(o.SourceInfo, o.Range)}
	for _, d := range o.Detail {
		w.Detail = append(w.Detail, string(d))
	}
	g.backend.Warn(w)
	return nil
}

// A reference is a filesystem that the frontend may look into.
type reference struct {
	g   *gateway
	def *pb.Definition

	mu    sync.Mutex
	files Files
}

var _ client.Reference = (*reference)(nil)

func (r *reference) open(ctx context.Context) (Files, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.files != nil {
		return r.files, nil
	}
	files, err := r.g.backend.Files(ctx, r.def)
	if err != nil {
		return nil, err
	}
	r.files = files
	return files, nil
}

// ToState implements client.Reference.
func (r *reference) ToState() (llb.State, error) {
	op, err := llb.NewDefinitionOp(r.def)
	if err != nil {
		return llb.State{}, err
	}
	return llb.NewState(op), nil
}

// Evaluate implements client.Reference.
func (r *reference) Evaluate(ctx context.Context) error {
	_, err := r.open(ctx)
	return err
}

// headerSize is how much of a context from the web the frontend reads to see whether it is an archive.
const headerSize = 1024

// ReadFile implements client.Reference. What is read whole is first the Dockerfile, then files that
// say what to ignore, and archives whose times count.
func (r *reference) ReadFile(ctx context.Context, req client.ReadRequest) ([]byte, error) {
	files, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	if req.Range == nil || req.Range.Offset != 0 || req.Range.Length <= 0 {
		return nil, fmt.Errorf("reading anything but the beginning of a file: %w", errdefs.ErrNotImplemented)
	}
	b, err := files.ReadFile(ctx, req.Filename, 0, int64(req.Range.Length))
	switch {
	case err != nil || req.Range.Length <= headerSize:
	case strings.HasSuffix(req.Filename, ".dockerignore"):
		err = r.g.ignore(path.Base(req.Filename), b)
	default:
		err = r.g.words.read(path.Base(req.Filename), b)
	}
	return b, err
}

// maxIgnored bounds the lines with wildcards of a .dockerignore: the frontend makes a regular expression
// of 3 KB of each.
const maxIgnored = 50_000

// ignore checks a .dockerignore before the frontend has it.
func (g *gateway) ignore(file string, text []byte) error {
	n := 0
	for line := range bytes.Lines(text) {
		if bytes.ContainsAny(line, `*?[\`) {
			n++
		}
	}
	if n <= maxIgnored {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ignores = fmt.Errorf("%s: %d lines with wildcards: at most %d are taken: %w", file, n, maxIgnored, errdefs.ErrInvalidArgument)
	return g.ignores
}

// StatFile implements client.Reference.
func (r *reference) StatFile(ctx context.Context, req client.StatRequest) (*fstypes.Stat, error) {
	files, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	info, err := files.Stat(ctx, req.Path)
	if err != nil {
		return nil, err
	}
	return stat(info), nil
}

// ReadDir implements client.Reference.
func (r *reference) ReadDir(ctx context.Context, req client.ReadDirRequest) ([]*fstypes.Stat, error) {
	if req.IncludePattern != "" {
		return nil, fmt.Errorf("reading a directory by a pattern: %w", errdefs.ErrNotImplemented)
	}
	files, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	infos, err := files.ReadDir(ctx, req.Path)
	if err != nil {
		return nil, err
	}
	list := make([]*fstypes.Stat, len(infos))
	for i, info := range infos {
		list[i] = stat(info)
	}
	return list, nil
}

func stat(i FileInfo) *fstypes.Stat {
	return &fstypes.Stat{
		Path: i.Name, Mode: i.Mode, Uid: i.UID, Gid: i.GID,
		Size: i.Size, ModTime: i.ModTime.UnixNano(), Linkname: i.Linkname,
	}
}
