package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	buildtypes "github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/dockerfile"
	"github.com/teu-dev/teu/registry"
)

// cancellable returns the context of a build, which POST /build/cancel ends too if the client gave the build an
// ID. end is called at the end.
func (s *Server) cancellable(w http.ResponseWriter, r *request) (ctx context.Context, end func()) {
	c := http.NewResponseController(w)
	c.EnableFullDuplex() // a client reads while it sends the context
	ctx, cancel := r.stream()
	id := r.param("buildid")
	if id != "" {
		s.builds.Store(id, cancel)
	}
	return ctx, func() {
		s.builds.Delete(id)
		cancel()
		// Where both directions go at the same time net/http panics over the next request, and so closes the
		// connection, if the end of this one's body has not been read, be it the end of an archive alone.
		if c.SetReadDeadline(time.Now().Add(leaveTime)) == nil {
			io.CopyN(io.Discard, r.Body, restOfContext)
		}
	}
}

// restOfContext is how many bytes of a context that nobody needed are read so that its connection lasts.
const restOfContext = 256 << 10

// build answers POST /build, the classic builder's operation: the context is the body.
func (s *Server) build(w http.ResponseWriter, r *request) error {
	if r.param("version") == string(buildtypes.BuilderBuildKit) {
		return s.buildInSession(w, r)
	}
	if v := r.param("version"); v != "" && v != string(buildtypes.BuilderV1) {
		return invalid("invalid version %q", v)
	}
	o, err := buildOptions(r)
	if err != nil {
		return err
	}
	b, err := s.Builder(s.Registry(buildCredentials(r)))
	if err != nil {
		return err
	}
	ctx, end := s.cancellable(w, r)
	defer end()
	p := &progressWriter{w: newFlusher(w)}
	printer := &buildPrinter{p: p, quiet: r.flag("q")}
	o.Events, o.Warn = printer.event, printer.warn
	res, err := b.Build(ctx, o)
	printer.mu.Lock()
	defer printer.mu.Unlock()
	if err != nil {
		if !p.begun && status(err) < http.StatusInternalServerError {
			return err
		}
		return printer.failed(err)
	}
	id := res.Config.String()
	p.send(struct {
		Aux buildtypes.Result `json:"aux"`
	}{buildtypes.Result{ID: id}})
	if printer.quiet {
		return p.send(streamText(id + "\n"))
	}
	p.send(streamText("Successfully built " + listing.ShortID(res.Config) + "\n"))
	for _, n := range res.Names {
		p.send(streamText("Successfully tagged " + listing.Familiar(n) + "\n"))
	}
	return nil
}

func (s *Server) cancelBuild(w http.ResponseWriter, r *request) error {
	id := r.param("id")
	if id == "" {
		return invalid("build ID not provided")
	}
	if cancel, ok := s.builds.Load(id); ok {
		cancel.(context.CancelFunc)()
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// buildOptions reads the query of POST /build.
func buildOptions(r *request) (o build.Options, err error) {
	o = build.Options{
		Context: r.param("remote"), Dockerfile: r.param("dockerfile"), Target: r.param("target"),
		NoCache: r.flag("nocache"), Pull: r.flag("pull"), Network: r.param("networkmode"), CgroupParent: r.param("cgroupparent"),
		Tags: slices.DeleteFunc(slices.Clone(r.query["t"]), func(t string) bool { return t == "" }),
	}
	switch o.Network {
	case "host":
		o.Entitlements = []string{"network.host"} // asking for it is allowing it
	case "bridge": // docker's name of its default
		o.Network = ""
	}
	if o.Context == "" || o.Context == uploadedContext {
		o.Context, o.ContextTar = "", r.Body
	} else if o.Context == sessionContext && r.param("session") != "" {
		o.Context = ""
	} else if !build.IsRemoteContext(o.Context) { // a directory of the server is none of a client
		return o, invalid("remoteURL (%s) could not be recognized as URL", o.Context)
	}
	if o.Limits, err = buildLimits(r); err != nil {
		return o, err
	}
	switch isolation := r.param("isolation"); {
	case r.flag("squash"):
		return o, invalid("squash is only supported with experimental mode")
	case isolation != "" && !strings.EqualFold(isolation, "default"):
		return o, invalid("Unsupported isolation: %q", isolation)
	case len(r.query["securityopt"]) > 0:
		return o, invalid("The daemon on this platform does not support setting security options on build")
	}
	shm, err := r.number("shmsize")
	if err != nil {
		return o, err
	}
	o.ShmSize = int64(shm)
	if err := buildDocuments(r, &o); err != nil {
		return o, err
	}
	for hosts := range strings.SplitSeq(strings.Join(r.query["extrahosts"], ","), ",") {
		if name, address, ok := strings.Cut(strings.TrimSpace(hosts), ":"); ok {
			o.AddHosts = append(o.AddHosts, name+"="+address)
		}
	}
	if text := r.param("platform"); text != "" {
		p, err := parsePlatform(text)
		if err != nil {
			return o, err
		}
		o.Platforms = []ocispec.Platform{*p}
	}
	return o, nil
}

// buildLimits reads the limits of the steps, which the frontend calls as the API does.
func buildLimits(r *request) (map[string]string, error) {
	limits := map[string]string{}
	for _, name := range []string{"memory", "memswap", "cpushares", "cpuperiod", "cpuquota"} {
		n, err := r.number(name)
		if err != nil {
			return nil, err
		}
		if n != 0 {
			limits[name] = strconv.Itoa(n)
		}
	}
	for _, name := range []string{"cpusetcpus", "cpusetmems"} {
		if v := r.param(name); v != "" {
			limits[name] = v
		}
	}
	return limits, nil
}

// buildDocuments reads the parameters that are JSON. Of caches and outputs the classic builder makes nothing.
func buildDocuments(r *request, o *build.Options) error {
	var args map[string]*string
	var ulimits []*units.Ulimit
	for _, d := range []struct {
		key, wrong string
		to         any
	}{
		{"buildargs", "error reading build args", &args},
		{"labels", "error reading labels", &o.Labels},
		{"ulimits", "error reading ulimit settings", &ulimits},
		{"cachefrom", "error reading cache-from", new([]string)},
		{"outputs", "invalid outputs specified", new([]struct {
			Type  string
			Attrs map[string]string
		})},
	} {
		if text := r.param(d.key); text != "" {
			if err := json.Unmarshal([]byte(text), d.to); err != nil {
				return invalid("%s: %s", d.wrong, err)
			}
		}
	}
	for name, value := range args {
		if value != nil { // null takes the Dockerfile's
			if o.Args == nil {
				o.Args = map[string]string{}
			}
			o.Args[name] = *value
		}
	}
	for _, u := range ulimits {
		o.Ulimits = append(o.Ulimits, u.String())
	}
	return nil
}

// buildPrinter turns a build's events into the classic builder's stream of text.
type buildPrinter struct {
	p     *progressWriter
	quiet bool
	mu    sync.Mutex
}

// stepName splits the name of a vertex: "[build 2/3] RUN make" -> "2/3", "RUN make".
func stepName(name string) (number, instruction string, ok bool) {
	where, instruction, ok := strings.Cut(strings.TrimPrefix(name, "["), "] ")
	if !ok || !strings.HasPrefix(name, "[") {
		return "", "", false
	}
	number = where[strings.LastIndexByte(where, ' ')+1:]
	return number, instruction, strings.Contains(number, "/")
}

func (b *buildPrinter) event(e solver.Event) {
	if b.quiet {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	number, instruction, step := stepName(e.Name)
	switch {
	case e.Kind == solver.Log:
		b.p.send(streamText(string(e.Data)))
	case !step:
	case strings.HasPrefix(instruction, "FROM "): // it is done without running
		if e.Kind == solver.Started {
			b.p.send(streamText(fmt.Sprintf("Step %s : %s\n", number, writtenFrom(instruction))))
		}
	case e.Kind == solver.Running:
		b.p.send(streamText(fmt.Sprintf("Step %s : %s\n", number, instruction)))
	case e.Kind == solver.Cached:
		b.p.send(streamText(fmt.Sprintf("Step %s : %s\n ---> Using cache\n", number, instruction)))
	}
}

// writtenFrom is a FROM as people write it, without what a lookup adds to the name of an image.
func writtenFrom(instruction string) string {
	from, name, _ := strings.Cut(instruction, " ")
	name, _, _ = strings.Cut(name, "@")
	return from + " " + strings.TrimSuffix(listing.Familiar(name), ":latest")
}

func (b *buildPrinter) warn(w dockerfile.Warning) {
	if b.quiet {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.p.send(streamText("[Warning] " + w.Text + "\n"))
}

// failed ends a stream with docker's message about the step that failed.
func (b *buildPrinter) failed(err error) error {
	m := failed{ErrorDetail: &jsonstream.Error{Message: message(err)}, Error: message(err)}
	var exit *op.ExitError
	if errors.As(err, &exit) {
		m.ErrorDetail.Code = exit.Code
	}
	return b.p.send(m)
}

// wished says whether a filter that may stand alone is wished for.
func wished(v string) bool { return v != "false" && v != "0" }

// pruneBuild answers POST /build/prune.
func (s *Server) pruneBuild(w http.ResponseWriter, r *request) error {
	filters, err := r.filters("until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private")
	if err != nil {
		return err
	}
	o := build.PruneOptions{All: r.flag("all")}
	for key, to := range map[string]*int64{"keep-storage": &o.Keep, "reserved-space": &o.Keep, "max-used-space": &o.MaxUsed, "min-free-space": &o.MinFree} {
		n, err := r.number(key)
		if err != nil {
			return err
		}
		*to = max(*to, int64(n))
	}
	before := time.Time{}
	for _, v := range append(filters["until"], filters["unused-for"]...) {
		d, err := time.ParseDuration(v)
		if err != nil {
			return invalid("invalid filter 'until=%s'", v)
		}
		before = time.Now().Add(-d)
	}
	o.Matches = func(e build.CacheEntry) bool {
		return (before.IsZero() || e.LastUsed.Before(before)) &&
			anyOf(filters, "id", func(v string) bool { return strings.HasPrefix(e.ID, v) }) &&
			anyOf(filters, "type", func(v string) bool { return e.Type == v }) &&
			anyOf(filters, "description", func(v string) bool { return e.Description == v }) &&
			anyOf(filters, "parent", func(string) bool { return false }) && // nothing here has one
			anyOf(filters, "inuse", func(v string) bool { return e.InUse == wished(v) }) &&
			anyOf(filters, "shared", func(v string) bool { return e.Shared == wished(v) }) &&
			anyOf(filters, "private", func(v string) bool { return e.Shared != wished(v) })
	}
	b, err := s.Builder(s.Registry(registry.Granted(nil)))
	if err != nil {
		return err
	}
	gone, err := b.Prune(r.Context(), o)
	if err != nil {
		return err
	}
	report := buildtypes.CachePruneReport{}
	for _, e := range gone {
		report.CachesDeleted = append(report.CachesDeleted, e.ID)
		report.SpaceReclaimed += uint64(max(e.Size, 0))
	}
	s.Containers.TellPruned("builder", int64(report.SpaceReclaimed))
	return writeJSON(w, http.StatusOK, report)
}
