package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session/grpchijack"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/system"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/dockerfile"
)

// Solve implements controlapi.ControlServer: one build, from its question to its exports.
func (s *Server) Solve(ctx context.Context, req *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	j, err := s.jobs.get(req.Ref, true)
	if err != nil {
		return nil, err
	}
	defer s.jobs.end(req.Ref, j)
	var response map[string]string
	var res build.Result
	err = fmt.Errorf("the build broke off: %w", errdefs.ErrInternal) // unless it ends
	if !req.Internal {
		rec := s.history.begin(req)
		defer func() { s.history.end(context.WithoutCancel(ctx), rec, &j.feed, response, res, err) }()
	}
	response, res, err = s.solve(ctx, j, req)
	if err = outward(err); err != nil {
		return nil, err
	}
	return &controlapi.SolveResponse{ExporterResponse: response}, nil
}

func (s *Server) solve(ctx context.Context, j *job, req *controlapi.SolveRequest) (response map[string]string, res build.Result, err error) {
	c := &caller{server: s, id: req.Session}
	if c.builder, err = s.Builder(c.credential); err != nil {
		return nil, res, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	w := &wish{c: c, talks: req.Frontend == "" && req.Definition == nil}
	if err := w.read(req); err != nil {
		return nil, res, err
	}
	returned := map[string]string{}
	res, err = w.build(ctx, &j.feed, func(ctx context.Context, b dockerfile.Backend) (*dockerfile.Result, error) {
		reply, err := w.reply(ctx, j, b, req)
		if err != nil {
			return nil, err
		}
		for name, value := range reply.Metadata {
			if strings.HasPrefix(name, "frontend.") { // what a frontend has to say to who asked
				returned[name] = string(value)
			}
		}
		if w.o.SBOM != nil {
			if err := reply.Scan(ctx, b, content.Host(), *w.o.SBOM, req.FrontendAttrs); err != nil {
				return nil, err
			}
		}
		configs(req, reply)
		res, err := reply.Result()
		if err != nil {
			return nil, err
		}
		return res, configure(res.Images, req.FrontendAttrs["build-arg:SOURCE_DATE_EPOCH"])
	})
	if err != nil {
		return nil, res, err
	}
	if response, err = w.response(res); err != nil {
		return nil, res, err
	}
	maps.Copy(response, returned)
	manifest, err := c.finishCaches(ctx)
	if manifest != "" {
		response["cache.manifest"] = manifest
	}
	return response, res, err
}

// configs takes the configs of images that the client gives with an output, where no frontend has made one.
func configs(req *controlapi.SolveRequest, reply *dockerfile.Reply) {
	for _, e := range exporters(req) {
		for name, value := range e.GetAttrs() {
			kind, _, _ := strings.Cut(name, "/") // a platform may follow
			if kind != exptypes.ExporterImageConfigKey || reply.Metadata[name] != nil {
				continue
			}
			if reply.Metadata == nil {
				reply.Metadata = map[string][]byte{}
			}
			reply.Metadata[name] = []byte(value)
		}
	}
}

// configure gives the images a config that have none, as what a definition makes, and the latest time that a build
// argument says where no frontend does.
func configure(images []dockerfile.Image, epoch string) (err error) {
	seconds, noEpoch := strconv.ParseInt(epoch, 10, 64)
	for i := range images {
		img := &images[i]
		if img.Epoch == nil && noEpoch == nil {
			t := time.Unix(seconds, 0).UTC()
			img.Epoch = &t
		}
		if len(img.Config) > 0 {
			continue
		}
		config := ocispec.Image{Platform: img.Platform, Config: ocispec.ImageConfig{Env: []string{"PATH=" + system.DefaultPathEnvUnix}, WorkingDir: "/"}}
		if img.Config, err = json.Marshal(config); err != nil {
			return err
		}
	}
	return nil
}

// build builds what compile says, or the options where it is nil.
func (w *wish) build(ctx context.Context, f *feed, compile func(context.Context, dockerfile.Backend) (*dockerfile.Result, error)) (build.Result, error) {
	w.o.Caller = &build.Caller{
		Compile: compile, Session: w.c.id, Local: w.c.local, Layout: w.c.layout, Cache: w.c.cache, Secrets: w.c, SSH: w.c.agent, HTTP: &http.Client{Transport: w.c},
		KeepFailed: w.talks,
	}
	w.o.Events, w.o.Warn = f.event, f.warn
	res, err := w.c.builder.Build(ctx, w.o)
	if err == nil {
		err = w.finish(ctx, res)
	}
	return res, err
}

// reply finds out what to build: a frontend says it, or a definition, or the client in a conversation.
func (w *wish) reply(ctx context.Context, j *job, b dockerfile.Backend, req *controlapi.SolveRequest) (*dockerfile.Reply, error) {
	switch {
	case req.Frontend != "" && req.Definition != nil:
		return nil, fmt.Errorf("both a frontend and a definition: %w", errdefs.ErrInvalidArgument)
	case req.Frontend != "":
		return ask(ctx, b, req.Frontend, req.FrontendAttrs, req.FrontendInputs, w.c.id)
	case req.Definition != nil:
		return &dockerfile.Reply{Ref: req.Definition}, nil
	}
	return j.converse(ctx, b, w.c, req.FrontendInputs)
}

// Status implements controlapi.ControlServer.
func (s *Server) Status(req *controlapi.StatusRequest, stream controlapi.Control_StatusServer) error {
	if !s.jobs.known(req.Ref) {
		if err := s.history.replay(req.Ref, stream.Send); !errdefs.IsNotFound(err) {
			return err
		}
	}
	j, err := s.jobs.get(req.Ref, false)
	if err != nil {
		return err
	}
	return j.feed.send(stream.Context(), stream.Send)
}

// Session implements controlapi.ControlServer: a session inside the connection for gRPC.
func (s *Server) Session(stream controlapi.Control_SessionServer) error {
	conn, closed, header := grpchijack.Hijack(stream)
	defer conn.Close()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	go func() {
		select {
		case <-closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return s.Attach(ctx, conn, header)
}

// ListWorkers implements controlapi.ControlServer: there is one.
func (s *Server) ListWorkers(ctx context.Context, _ *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	labels := map[string]string{
		// By the first clients know that the store takes whole images: several platforms, OCI archives,
		// shared caches.
		"org.mobyproject.buildkit.worker.snapshotter": "overlayfs",
		"org.mobyproject.buildkit.worker.executor":    "teu",
	}
	if a, err := s.Gateway(ctx); err == nil && a.IsValid() {
		labels["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] = a.String()
	}
	all := workers(labels)
	all[0].BuildkitVersion = s.version()
	b, err := s.Builder(nil)
	if err != nil {
		return nil, err
	}
	devices, err := op.Devices(b.CDIDirs)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		all[0].CDIDevices = append(all[0].CDIDevices, &apitypes.CDIDevice{Name: d.Name, AutoAllow: d.Free, Annotations: d.Annotations})
	}
	return &controlapi.ListWorkersResponse{Record: all}, nil
}

func workers(labels map[string]string) []*apitypes.WorkerRecord {
	return []*apitypes.WorkerRecord{{ID: "teu", Labels: labels, Platforms: pb.PlatformsFromSpec([]ocispec.Platform{content.Host()})}}
}

func (s *Server) version() *apitypes.BuildkitVersion {
	return &apitypes.BuildkitVersion{Package: "github.com/teu-dev/teu", Version: Version, Revision: s.Version + " " + runtime.Version(), DockerfileVersion: dockerfile.Version()}
}

// Version is the release of BuildKit whose API and frontend these are: clients compare it, and know nothing
// of teu's own numbers.
const Version = "v0.34.2"

// Info implements controlapi.ControlServer.
func (s *Server) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: s.version()}, nil
}

// DiskUsage implements controlapi.ControlServer.
func (s *Server) DiskUsage(ctx context.Context, req *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	b, err := s.Builder(nil)
	if err != nil {
		return nil, err
	}
	match, err := cacheFilter(req.Filter)
	if err != nil {
		return nil, err
	}
	entries, err := b.Cache(ctx)
	if err != nil {
		return nil, err
	}
	res := &controlapi.DiskUsageResponse{}
	for _, e := range entries {
		if match(e) {
			res.Record = append(res.Record, record(e))
		}
	}
	return res, nil
}

func record(e build.CacheEntry) *controlapi.UsageRecord {
	return &controlapi.UsageRecord{
		ID: e.ID, Mutable: e.Type == build.CacheMount, InUse: e.InUse, Size: e.Size, Description: e.Description, Shared: e.Shared,
		RecordType: e.Type, CreatedAt: timestamppb.New(e.Created), LastUsedAt: timestamppb.New(e.LastUsed), UsageCount: 1,
	}
}

// Prune implements controlapi.ControlServer.
func (s *Server) Prune(req *controlapi.PruneRequest, stream controlapi.Control_PruneServer) error {
	b, err := s.Builder(nil)
	if err != nil {
		return err
	}
	o := build.PruneOptions{All: req.All, Keep: req.ReservedSpace, MaxUsed: req.MaxUsedSpace, MinFree: req.MinFreeSpace}
	match, err := cacheFilter(req.Filter)
	if err != nil {
		return err
	}
	before := time.Now().Add(-time.Duration(req.KeepDuration))
	o.Matches = func(e build.CacheEntry) bool { return match(e) && (req.KeepDuration == 0 || e.LastUsed.Before(before)) }
	gone, err := b.Prune(stream.Context(), o)
	if err != nil {
		return err
	}
	for _, e := range gone {
		if err := stream.Send(record(e)); err != nil {
			return err
		}
	}
	return nil
}

// cacheFilter reads BuildKit's filters: an entry is meant that one of them matches, and one is a list of
// conditions with commas between them, all of which have to hold.
func cacheFilter(filters []string) (func(build.CacheEntry) bool, error) {
	var any []func(build.CacheEntry) bool
	for _, f := range filters {
		var list []string
		for condition := range strings.SplitSeq(f, ",") {
			name, value, found := strings.Cut(condition, "==")
			if found {
				condition = name + "=" + value
			}
			if condition != "" {
				list = append(list, condition)
			}
		}
		match, err := build.ParseCacheFilters(list, time.Now())
		if err != nil {
			return nil, err
		}
		any = append(any, match)
	}
	return func(e build.CacheEntry) bool {
		return len(any) == 0 || slices.ContainsFunc(any, func(match func(build.CacheEntry) bool) bool { return match(e) })
	}, nil
}
