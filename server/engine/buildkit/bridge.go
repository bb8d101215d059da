package buildkit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/buildid"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	capspb "github.com/moby/buildkit/util/apicaps/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/tonistiigi/fsutil/types"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/dockerfile"
)

// A bridge is what a client sees that says itself what to build: it may solve, look into what it solved, and
// in the end returns what the build is for.
type bridge struct {
	backend dockerfile.Backend
	caller  *caller
	inputs  map[string]*pb.Definition // that the client has when it begins
	returns chan answer               // has room for the one

	mu         sync.Mutex
	refs       map[string]*ref
	left       map[string]left        // by commands that failed
	containers map[string]*op.Sandbox // nil: it is being made
	asked      *dockerfile.Reply      // the last of the frontend
	closed     bool
	calls      sync.WaitGroup
	cancel     context.CancelFunc // of the calls
	ctx        context.Context
}

// A ref is a filesystem that the client knows by its ID.
type ref struct {
	def *pb.Definition

	mu    sync.Mutex
	files dockerfile.Files
}

type answer struct {
	reply *dockerfile.Reply
	err   error
}

// maxRefs is how many results a build may have.
const maxRefs = 10_000

// converse lets the client of j say what to build.
func (j *job) converse(ctx context.Context, b dockerfile.Backend, c *caller, inputs map[string]*pb.Definition) (reply *dockerfile.Reply, err error) {
	br := &bridge{
		backend: b, caller: c, inputs: inputs, returns: make(chan answer, 1),
		refs: map[string]*ref{}, left: map[string]left{}, containers: map[string]*op.Sandbox{},
	}
	br.ctx, br.cancel = context.WithCancel(ctx)
	j.offer(br)
	defer func() { err = errors.Join(err, br.close()) }()
	select {
	case a := <-br.returns:
		return a.reply, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// close waits until no call uses the build any more, and ends the client's containers.
func (b *bridge) close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.calls.Wait()
	return b.closeContainers()
}

// enter begins a call, whose context ends with the bridge too.
func (b *bridge) enter(ctx context.Context) (context.Context, func(), error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, fmt.Errorf("the build has its result: %w", errdefs.ErrFailedPrecondition)
	}
	b.calls.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(b.ctx, cancel)
	return ctx, func() { stop(); cancel(); b.calls.Done() }, nil
}

func (b *bridge) add(def *pb.Definition) (*gwpb.Ref, error) {
	if def == nil {
		return &gwpb.Ref{}, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.refs) >= maxRefs {
		return nil, fmt.Errorf("%d results: %w", maxRefs, errdefs.ErrResourceExhausted)
	}
	id := identity.NewID()
	b.refs[id] = &ref{def: def}
	return &gwpb.Ref{Id: id, Def: def}, nil
}

func (b *bridge) ref(id string) (*ref, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.refs[id]
	if r == nil {
		return nil, fmt.Errorf("no such ref %q: %w", id, errdefs.ErrNotFound)
	}
	return r, nil
}

func (b *bridge) definition(id string) (*pb.Definition, error) {
	if id == "" {
		return nil, nil
	}
	r, err := b.ref(id)
	if err != nil {
		return nil, err
	}
	return r.def, nil
}

// open solves a ref, once.
func (b *bridge) open(ctx context.Context, id string) (dockerfile.Files, error) {
	r, err := b.ref(id)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.files == nil {
		if r.files, err = b.backend.Files(ctx, r.def); err != nil {
			return nil, err
		}
	}
	return r.files, nil
}

// bridges finds the bridge of a call.
type bridges struct {
	gwpb.UnimplementedLLBBridgeServer
	jobs *jobs
}

// call runs do with the bridge that the call is for.
func (s bridges) call(ctx context.Context, do func(context.Context, *bridge) error) error {
	j, err := s.jobs.get(buildid.FromIncomingContext(ctx), false)
	if err != nil {
		return err
	}
	b, err := j.wait(ctx)
	if err != nil {
		return err
	}
	ctx, leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return b.failed(outward(do(ctx, b)))
}

// Ping implements gwpb.LLBBridgeServer.
func (s bridges) Ping(ctx context.Context, _ *gwpb.PingRequest) (*gwpb.PongResponse, error) {
	if err := s.call(ctx, func(context.Context, *bridge) error { return nil }); err != nil {
		return nil, err
	}
	return &gwpb.PongResponse{FrontendAPICaps: without(gwpb.Caps.All(), unservedCalls()), LLBCaps: without(pb.Caps.All(), unservedOps()), Workers: workers(nil)}, nil
}

func without(all []*capspb.APICap, gone []apicaps.CapID) (left []*capspb.APICap) {
	for _, c := range all {
		keep := true
		for _, id := range gone {
			keep = keep && c.ID != string(id)
		}
		if keep {
			left = append(left, c)
		}
	}
	return left
}

// unservedCalls are what clients can find out that they may not call.
func unservedCalls() []apicaps.CapID {
	return []apicaps.CapID{
		gwpb.CapSourceMetaResolverHTTPChecksumRequest,
	}
}

// unservedOps are what clients can find out that a build cannot do.
func unservedOps() []apicaps.CapID {
	return []apicaps.CapID{
		pb.CapExecMetaNetworkProxy, pb.CapSessionExporter,
		pb.CapRemoteCacheGHA, pb.CapRemoteCacheS3, pb.CapRemoteCacheAzBlob,
		pb.CapSourceHTTPSignatureVerify, pb.CapSourceMetadataTransfer, pb.CapSourceImageBlob,
		pb.CapSourceGitBundle, pb.CapSourceGitCheckoutBundle,
	}
}

// Solve implements gwpb.LLBBridgeServer. Nothing runs yet unless Evaluate asks for it.
func (s bridges) Solve(ctx context.Context, req *gwpb.SolveRequest) (*gwpb.SolveResponse, error) {
	res := &gwpb.Result{}
	err := s.call(ctx, func(ctx context.Context, b *bridge) (err error) {
		def, err := permitted(ctx, req.Definition, req.SourcePolicies)
		if err != nil {
			return err
		}
		reply := &dockerfile.Reply{Ref: def}
		if req.Frontend != "" {
			if reply, err = ask(ctx, b.backend, req.Frontend, req.FrontendOpt, req.FrontendInputs, b.caller.id); err != nil {
				return err
			}
			b.mu.Lock()
			b.asked = reply
			b.mu.Unlock()
		}
		res.Metadata = reply.Metadata
		if res.Attestations, err = b.promise(reply.Attestations); err != nil {
			return err
		}
		if reply.Refs == nil {
			ref, err := b.add(reply.Ref)
			if err != nil {
				return err
			}
			res.Result = &gwpb.Result_Ref{Ref: ref}
			return b.evaluate(ctx, req.Evaluate, ref)
		}
		refs := map[string]*gwpb.Ref{}
		for id, def := range reply.Refs {
			if refs[id], err = b.add(def); err != nil {
				return err
			}
			if err := b.evaluate(ctx, req.Evaluate, refs[id]); err != nil {
				return err
			}
		}
		res.Result = &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: refs}}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &gwpb.SolveResponse{Result: res}, nil
}

func (b *bridge) evaluate(ctx context.Context, wanted bool, r *gwpb.Ref) error {
	if !wanted || r.Id == "" {
		return nil
	}
	_, err := b.open(ctx, r.Id)
	return err
}

// ask runs a frontend. There is one, which goes by two names.
func ask(ctx context.Context, b dockerfile.Backend, name string, attrs map[string]string, inputs map[string]*pb.Definition, session string) (*dockerfile.Reply, error) {
	if name != "dockerfile.v0" && name != "gateway.v0" {
		return nil, fmt.Errorf("the frontend %s is not built in; dockerfile.v0 is: %w", name, errdefs.ErrNotImplemented)
	}
	return dockerfile.Ask(ctx, b, dockerfile.Options{Attrs: attrs, Host: content.Host(), Session: session, Inputs: inputs})
}

// Return implements gwpb.LLBBridgeServer.
func (s bridges) Return(ctx context.Context, req *gwpb.ReturnRequest) (*gwpb.ReturnResponse, error) {
	err := s.call(ctx, func(ctx context.Context, b *bridge) error {
		a, err := b.answer(req)
		if err != nil {
			return err
		}
		select {
		case b.returns <- a:
			return nil
		default:
			return fmt.Errorf("the result is already set: %w", errdefs.ErrAlreadyExists)
		}
	})
	if err != nil {
		return nil, err
	}
	return &gwpb.ReturnResponse{}, nil
}

func (b *bridge) answer(req *gwpb.ReturnRequest) (a answer, err error) {
	if e := req.Error; e != nil {
		a.err = grpcerrors.FromGRPC(status.ErrorProto(&spb.Status{Code: e.Code, Message: e.Message, Details: e.Details}))
		if a.err == nil {
			return a, fmt.Errorf("an error that is none: %w", errdefs.ErrInvalidArgument)
		}
		return a, nil
	}
	res := req.Result
	if res == nil {
		return a, fmt.Errorf("neither a result nor an error: %w", errdefs.ErrInvalidArgument)
	}
	a.reply = &dockerfile.Reply{Metadata: res.Metadata}
	if a.reply.Attestations, err = b.promised(res.Attestations); err != nil {
		return a, err
	}
	b.mu.Lock()
	if b.asked != nil {
		a.reply.Frontend, a.reply.Attrs = b.asked.Frontend, b.asked.Attrs
	}
	b.mu.Unlock()
	several := map[string]string{}
	switch r := res.Result.(type) {
	case *gwpb.Result_RefDeprecated:
		a.reply.Ref, err = b.definition(r.RefDeprecated)
	case *gwpb.Result_Ref:
		a.reply.Ref, err = b.definition(r.Ref.GetId())
	case *gwpb.Result_RefsDeprecated:
		several = r.RefsDeprecated.GetRefs()
	case *gwpb.Result_Refs:
		for id, ref := range r.Refs.GetRefs() {
			several[id] = ref.GetId()
		}
	}
	for platform, id := range several {
		if a.reply.Refs == nil {
			a.reply.Refs = map[string]*pb.Definition{}
		}
		if a.reply.Refs[platform], err = b.definition(id); err != nil {
			return a, err
		}
	}
	return a, err
}

// Evaluate implements gwpb.LLBBridgeServer.
func (s bridges) Evaluate(ctx context.Context, req *gwpb.EvaluateRequest) (*gwpb.EvaluateResponse, error) {
	err := s.call(ctx, func(ctx context.Context, b *bridge) error {
		_, err := b.open(ctx, req.Ref)
		return err
	})
	return &gwpb.EvaluateResponse{}, err
}

// maxFile is the largest part of a file that is read at once: what a message takes with what stands around it.
const maxFile = maxMessage - 16

// ReadFile implements gwpb.LLBBridgeServer.
func (s bridges) ReadFile(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	res := &gwpb.ReadFileResponse{}
	err := s.call(ctx, func(ctx context.Context, b *bridge) error {
		files, err := b.open(ctx, req.Ref)
		if err != nil {
			return err
		}
		res.Data, err = readFile(ctx, files, req)
		return err
	})
	return res, err
}

func readFile(ctx context.Context, files dockerfile.Files, req *gwpb.ReadFileRequest) ([]byte, error) {
	from, most := int64(0), int64(maxFile+1)
	if r := req.Range; r != nil {
		if r.Offset < 0 || r.Length < 0 {
			return nil, fmt.Errorf("invalid range of %s: %w", req.FilePath, errdefs.ErrInvalidArgument)
		}
		from, most = r.Offset, min(r.Length, most)
	}
	data, err := files.ReadFile(ctx, req.FilePath, from, most)
	if err == nil && len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes of %s: %w", maxFile, req.FilePath, errdefs.ErrResourceExhausted)
	}
	return data, err
}

// ReadDir implements gwpb.LLBBridgeServer.
func (s bridges) ReadDir(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	res := &gwpb.ReadDirResponse{}
	err := s.call(ctx, func(ctx context.Context, b *bridge) error {
		files, err := b.open(ctx, req.Ref)
		if err != nil {
			return err
		}
		res.Entries, err = readDir(ctx, files, req)
		return err
	})
	return res, err
}

func readDir(ctx context.Context, files dockerfile.Files, req *gwpb.ReadDirRequest) (entries []*types.Stat, err error) {
	list, err := files.ReadDir(ctx, req.DirPath)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if ok, err := matches(req.IncludePattern, i.Name); err != nil {
			return nil, err
		} else if ok {
			entries = append(entries, fileStat(i))
		}
	}
	return entries, nil
}

// StatFile implements gwpb.LLBBridgeServer.
func (s bridges) StatFile(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	res := &gwpb.StatFileResponse{}
	err := s.call(ctx, func(ctx context.Context, b *bridge) error {
		files, err := b.open(ctx, req.Ref)
		if err != nil {
			return err
		}
		i, err := files.Stat(ctx, req.Path)
		if err == nil {
			res.Stat = fileStat(i)
		}
		return err
	})
	return res, err
}

func fileStat(i dockerfile.FileInfo) *types.Stat {
	s := &types.Stat{Path: i.Name, Mode: i.Mode, Uid: i.UID, Gid: i.GID, ModTime: i.ModTime.UnixNano(), Linkname: i.Linkname}
	if fs.FileMode(i.Mode).IsRegular() {
		s.Size = i.Size
	}
	return s
}

// ResolveImageConfig implements gwpb.LLBBridgeServer.
func (s bridges) ResolveImageConfig(ctx context.Context, req *gwpb.ResolveImageConfigRequest) (*gwpb.ResolveImageConfigResponse, error) {
	res := &gwpb.ResolveImageConfigResponse{}
	err := s.call(ctx, func(ctx context.Context, b *bridge) error {
		o := dockerfile.ImageOptions{Platform: graph.Platform(req.Platform), Mode: req.ResolveMode, Layout: req.StoreID}
		if len(req.SourcePolicies) > 0 {
			return unsupported("policies of a question for a config; ask for the source's metadata")
		}
		img, err := b.backend.ResolveImage(ctx, cmp.Or(req.LogName, "resolve "+req.Ref), req.Ref, o)
		res.Ref, res.Digest, res.Config = img.Ref, img.Digest, img.Config
		return err
	})
	return res, err
}

// ResolveSourceMeta implements gwpb.LLBBridgeServer.
func (s bridges) ResolveSourceMeta(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (res *gwpb.ResolveSourceMetaResponse, err error) {
	err = s.call(ctx, func(ctx context.Context, b *bridge) (err error) {
		if req.Source != nil && len(req.SourcePolicies) > 0 {
			policy, err := dockerfile.NewSourcePolicy(req.SourcePolicies...)
			if err != nil {
				return err
			}
			if _, err := policy.Apply(req.Source); err != nil {
				return err
			}
		}
		res, err = describe(ctx, b.backend, req)
		return err
	})
	return res, err
}

// describe tells what a source is. The answer's source is the one that was asked about, or what a policy made of it.
func describe(ctx context.Context, sources build.Sources, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	switch {
	case req.Source == nil:
		return nil, fmt.Errorf("no source: %w", errdefs.ErrInvalidArgument)
	case req.HTTP.GetChecksumRequest() != nil:
		return nil, unsupported("checksums of a download with something behind it")
	}
	res := &gwpb.ResolveSourceMetaResponse{Source: req.Source}
	scheme, ref, _ := strings.Cut(req.Source.Identifier, "://")
	switch scheme {
	case "docker-image", "oci-layout":
		o := dockerfile.ImageOptions{Platform: graph.Platform(req.Platform), Mode: req.ResolveMode, Layout: req.Source.Attrs[pb.AttrOCILayoutStoreID]}
		o.Statements = req.Image.GetResolveAttestations()
		o.Chain = req.Image.GetAttestationChain() || len(o.Statements) > 0
		if scheme == "oci-layout" && o.Chain {
			return nil, unsupported("the attestations of an image in a layout")
		}
		if scheme == "oci-layout" && o.Layout == "" {
			return nil, fmt.Errorf("%s names no layout: %w", req.Source.Identifier, errdefs.ErrInvalidArgument)
		}
		img, err := sources.ResolveImage(ctx, cmp.Or(req.LogName, "resolve "+ref), ref, o)
		if replaced := (*dockerfile.ReplacedError)(nil); errors.As(err, &replaced) {
			req.Source.Identifier = replaced.By // without an image: the client looks at that
			return res, nil
		}
		if err != nil {
			return nil, err
		}
		req.Source.Identifier = scheme + "://" + img.Ref
		res.Image = &gwpb.ResolveSourceImageResponse{Digest: img.Digest, Config: img.Config, AttestationChain: chain(img.Chain)}
		if req.Image.GetNoConfig() {
			res.Image.Config = nil
		}
	default:
		info, err := sources.DescribeSource(ctx, cmp.Or(req.LogName, "resolve "+req.Source.Identifier), req.Source)
		if err != nil {
			return nil, err
		}
		res.Git, res.HTTP = gitMeta(info, req.Git.GetReturnObject()), httpMeta(info)
	}
	return res, nil
}

// chain tells of what is stated of an image; nil: nothing can be.
func chain(c *dockerfile.Chain) *gwpb.AttestationChain {
	if c == nil {
		return nil
	}
	out := &gwpb.AttestationChain{Root: c.Root, ImageManifest: c.Image, AttestationManifest: c.Statements, Blobs: map[string]*gwpb.Blob{}}
	if c.Signature != "" {
		out.SignatureManifests = []string{c.Signature}
	}
	for name, b := range c.Blobs {
		d := b.Descriptor
		out.Blobs[name] = &gwpb.Blob{
			Descriptor_: &gwpb.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations},
			Data:        b.Data,
		}
	}
	return out
}

// gitMeta tells of a source in git, whole with the objects themselves; nil: it is none.
func gitMeta(info dockerfile.SourceInfo, whole bool) *gwpb.ResolveSourceGitResponse {
	if info.Commit == "" {
		return nil
	}
	res := &gwpb.ResolveSourceGitResponse{Ref: info.Ref, Checksum: info.Commit, CommitChecksum: info.Tagged}
	if whole {
		res.CommitObject, res.TagObject = info.Object, info.Tag
	}
	return res
}

// httpMeta tells of a download; nil: it is none.
func httpMeta(info dockerfile.SourceInfo) *gwpb.ResolveSourceHTTPResponse {
	if info.Digest == "" {
		return nil
	}
	res := &gwpb.ResolveSourceHTTPResponse{Checksum: info.Digest, Filename: info.Filename}
	if info.Modified != nil {
		res.LastModified = timestamppb.New(*info.Modified)
	}
	return res
}

// Inputs implements gwpb.LLBBridgeServer: those of the client itself. Those of a frontend that it asks come with its Solve.
func (s bridges) Inputs(ctx context.Context, _ *gwpb.InputsRequest) (*gwpb.InputsResponse, error) {
	res := &gwpb.InputsResponse{}
	err := s.call(ctx, func(_ context.Context, b *bridge) error {
		res.Definitions = b.inputs
		return nil
	})
	return res, err
}

// Warn implements gwpb.LLBBridgeServer.
func (s bridges) Warn(ctx context.Context, req *gwpb.WarnRequest) (*gwpb.WarnResponse, error) {
	err := s.call(ctx, func(_ context.Context, b *bridge) error {
		w := dockerfile.Warning{Text: string(req.Short), URL: req.Url, Level: int(req.Level), Vertex: req.Digest}
		for _, d := range req.Detail {
			w.Detail = append(w.Detail, string(d))
		}
		if r := req.Ranges; len(r) > 0 && req.Info != nil {
			w.Where = dockerfile.Location{File: req.Info.Filename, Text: req.Info.Data, Start: int(r[0].GetStart().GetLine()), End: int(r[0].GetEnd().GetLine())}
		}
		b.backend.Warn(w)
		return nil
	})
	return &gwpb.WarnResponse{}, err
}

// matches says whether a name is one that the client wants to see; "" stands for all.
func matches(pattern, name string) (bool, error) {
	if pattern == "" {
		return true, nil
	}
	ok, err := path.Match(pattern, name)
	if err != nil {
		return false, fmt.Errorf("pattern %q: %w: %w", pattern, errdefs.ErrInvalidArgument, err)
	}
	return ok, nil
}
