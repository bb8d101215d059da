// Package build makes images from Dockerfiles: it compiles, solves and exports.
//
//	Dockerfile --dockerfile--> definition --build/graph--> vertices
//	vertices --build/solver, build/op--> layers --build/export--> image, files, archive
//
// While the frontend compiles it asks for files of the context and configs of base images;
// those questions are small builds of their own, solved by the same solver.
package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/provenance"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/dockerfile"
	"github.com/teu-dev/teu/registry"
)

// A Builder builds on one store. It is safe for concurrent use.
type Builder struct {
	Store    *cache.Store
	Registry *registry.Client
	Executor op.Executor // runs the commands of RUN
	CDIDirs  []string    // where files tell of devices for RUN --device
	// CacheSize is how many bytes the build cache may have after a build; 0: a tenth of the
	// disk, less than 0: any number.
	CacheSize int64
	// Tell hears of each image that is put into the store, as the one of library.Library: create, and tag for each
	// of its names. It may be nil.
	Tell func(action, id, name string, labels map[string]string)
}

// Options of a build. Only one of Context, ContextTar, DockerfileText and Caller is required.
type Options struct {
	// Caller has files, secrets and agents, and may say itself what to build. Then what says so here, from
	// Context to Limits, is not looked at.
	Caller *Caller

	Context    string    // a directory, or the URL of a git repository or of a tar archive
	ContextTar io.Reader // the context instead, plain or compressed
	Dockerfile string    // path, "" for Dockerfile in the context; inside the context if that is no directory
	// DockerfileText is the Dockerfile instead. Without a context it is empty.
	DockerfileText []byte
	DockerfileName string            // what the answer to a check calls it; "": its last element
	Contexts       map[string]string // named contexts: a directory or what BuildKit takes, docker-image://...

	Target    string
	Platforms []ocispec.Platform // none: the host's
	Args      map[string]string
	Labels    map[string]string
	NoCache   bool
	NoCacheOf []string // stages
	Pull      bool     // ask registries what tags of base images stand for, even if they are here

	Network      string            // "", "default", "host" or "none"
	AddHosts     []string          // "name=address", or "name=" and HostGateway
	ShmSize      int64             // bytes; 0: the default
	Ulimits      []string          // "nofile=1024:2048"
	CgroupParent string            //
	Secrets      map[string]Secret // by id
	SSH          map[string]op.SSHAgent
	Entitlements []string // see op.CheckEntitlement

	Tags    []string // names of the image, docker's short form; of all outputs
	Outputs []Output // none: the local store
	Load    bool     // the local store even if the image is pushed and not all of it is here
	Push    bool     // push the image under all its Tags
	Form             // of outputs that have none of their own, and of what Push means
	// Epoch is used instead of the Dockerfile's and the build argument's SOURCE_DATE_EPOCH; nil: theirs.
	Epoch *Epoch

	// Provenance is stated of what is built; nil: nothing is.
	Provenance *provenance.Options
	// Repository is where the context comes from, which Provenance says; nil: it does not.
	Repository *Repository
	// SBOM asks for what is in the images, which a scanner finds: an image that is run, generator=IMAGE, and
	// others of its settings. nil: nobody asks.
	SBOM *string

	Limits map[string]string // of commands, by the frontend's names: memory, cpushares, ...

	// Policy says which sources the build may use, and what takes the place of others; nil: all, as they are.
	Policy Policy

	Question string // instead of building, ask the frontend: "frontend.outline", "frontend.targets", "frontend.lint"

	CacheFrom []CacheRef // where other machines keep what they built
	CacheTo   []CacheRef // where this build is to be kept for them

	LogSize int // bytes that are passed on of what each step prints; 0: 2 MiB, less than 0: all

	Parallel int                      // commands at once; 0: one per CPU
	Events   func(solver.Event)       // called from several goroutines, one at a time; may be nil
	Warn     func(dockerfile.Warning) // likewise, and not beside Events
}

// HostGateway stands for the address of this machine where the commands of RUN see it.
const HostGateway = "host-gateway"

// A Form is how an image is written.
type Form struct {
	Annotations map[string]string // name, or LEVEL:NAME as buildx takes it
	ByDigest    bool              // push to the repositories of the names only, and put no name on it
	// Compression of new layers: "gzip", "zstd" or "uncompressed"; "": gzip for what leaves this
	// machine, none for what stays.
	Compression string
	Recompress  bool // layers of the base too
	Rewritten   bool // layers whose times were held to the epoch say so, as BuildKit's do with rewrite-timestamp
	DockerTypes bool // docker's media types instead of OCI's; not with annotations, which they have not
	// StatementsAsImage puts statements beside an image as if they were one, for registries that know no
	// artifacts; FileStatements into archives of images too that are for images in registries only.
	StatementsAsImage, FileStatements bool
}

// An Output is where a result goes instead of the local store.
type Output struct {
	Type string // "image", "local", "tar", "oci" or "docker", or "cacheonly" for nothing
	Dest string // directory of local; file of the others, "" or "-" for Writer
	Dir  bool   // Dest of oci and docker is a directory: the layout itself
	// Names of the image of image, oci and docker, if the build has no Tags.
	Names []string
	Push  bool // of image: push it under its names
	// Insecure says that the registries it is pushed to need no verified TLS. It counts for all that the build asks of them.
	Insecure bool
	// Form of the image; nil: that of all. The annotations of all are in it too.
	Form *Form
	// Mirror removes what is in the directory of local and not in the result.
	Mirror bool
	// Source is the directory of the result that tar and local write, "" for all of it.
	Source string
	// StatementPrefix begins the names of the files with statements, of tar and local.
	StatementPrefix string
	// Deliver takes what is in Dest, a directory of local, when all of it is there; nil: it is for nobody else.
	Deliver func(ctx context.Context) error
	// Split gives each platform a directory, of tar and local; nil: if there are several.
	Split *bool
	// Writer takes what goes to no file; it is not closed.
	Writer io.Writer
}

// An Epoch is the latest time that an image has.
type Epoch struct {
	Time *time.Time // nil: there is none
}

// A Result is what a build made.
type Result struct {
	// Target is the manifest, or the index of several platforms; zero if only files were written.
	Target ocispec.Descriptor
	Config digest.Digest // the image ID; of several platforms, that of the first
	// Targets are the Target of each output, zero of one that makes no image. The last of them that is an image in the
	// store, or else the first, is Target.
	Targets []ocispec.Descriptor
	Index   bool     // Target is an index
	Names   []string // canonical
	Answer  map[string][]byte
	Wrong   error    // why the Dockerfile cannot be built, if a check was asked for
	Why     []Reason // of the steps that ran, also when the build failed
}

// DockerfilePath is where the Dockerfile is if the context is a directory.
func (o *Options) DockerfilePath() string {
	return cmp.Or(o.Dockerfile, filepath.Join(o.Context, "Dockerfile"))
}

// Build builds. An error that a step or a line of the Dockerfile caused is an *Error.
func (b *Builder) Build(ctx context.Context, o Options) (res Result, err error) {
	names, err := nameOutputs(o)
	if err != nil {
		return res, err
	}
	for _, form := range names.forms {
		if _, err := parseAnnotations(form.Annotations); err != nil {
			return res, err
		}
	}
	for _, text := range o.Entitlements {
		if err := op.CheckEntitlement(text); err != nil {
			return res, err
		}
	}
	if b, err = b.insecurely(o, names); err != nil {
		return res, err
	}
	unpin, err := b.Store.Pin(ctx)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, unpin()) }()
	r, err := b.start(ctx, o, names)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	res, err = r.build(ctx)
	if o.Question == "" {
		why, err := r.history.reasons()
		if err != nil {
			r.warnf("the next build will not know what changed: %v", err)
		}
		res.Why = why
	}
	if err != nil {
		r.journal.skip()
		return res, r.explain(err)
	}
	if err := b.collect(ctx); err != nil {
		r.warnf("the build cache was not held to its size: %v", err)
	}
	r.tell(res)
	return res, nil
}

// insecurely returns a builder for which what o calls an insecure registry is one.
func (b *Builder) insecurely(o Options, names naming) (*Builder, error) {
	registries := names.insecure
	for _, c := range slices.Concat(o.CacheFrom, o.CacheTo) {
		insecure, err := c.flag(insecureSetting)
		if err != nil {
			return nil, err
		}
		if named, err := reference.ParseNormalizedNamed(c.Args["ref"]); err == nil && insecure {
			registries = append(registries, reference.Domain(named))
		}
	}
	if len(registries) == 0 {
		return b, nil
	}
	other := *b
	other.Registry = b.Registry.Insecurely(registries...)
	return &other, nil
}

// A run is one build.
type run struct {
	b       *Builder
	o       Options
	names   naming
	env     *op.Env
	solver  *solver.Solver[op.Result]
	cache   *sharedCache
	inline  bool                 // the image tells of its own steps
	index   bool                 // the result is an index
	epoch   *time.Time           // SOURCE_DATE_EPOCH, once the Dockerfile is read
	early   *registry.Repository // the first that the image is pushed to; nil: it is not
	history *historian
	journal *journal
	record  *provenance.Record // nil: nothing is stated
	claims  map[bool]bool      // whether who made the results states something of them, by whether they are files
	steps   steps
	made    map[variant]madeImage
	kept    bool              // the image is in the store
	labels  map[string]string // of it
	sealer  sealer
	scratch *statefile.Scratch // volatile
	disk    *statefile.Scratch // for contexts that come as a stream; nil until needed
	views   views
	session *op.Session // nil: the Executor has none
	permits permits
}

// A beginner is an op.Executor with something of its own for each build.
type beginner interface {
	Begin() (*op.Session, error)
}

var _ beginner = (*op.Containers)(nil)

func (b *Builder) start(ctx context.Context, o Options, names naming) (*run, error) {
	dir, runDir := filepath.Join(b.Store.Root(), "build"), filepath.Join(b.Store.RunRoot(), "build")
	for _, d := range []string{dir, runDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := statefile.SweepScratch(runDir); err != nil {
		return nil, fmt.Errorf("removing what an earlier build left: %w", err)
	}
	scratch, err := statefile.NewScratch(runDir)
	if err != nil {
		return nil, err
	}
	r := &run{b: b, o: o, names: names, scratch: scratch, journal: newJournal(o.Events, o.Warn)}
	if o.LogSize != 0 {
		r.journal.most = o.LogSize
	}
	r.history = newHistorian(dir, o)
	r.sealer = sealer{store: b.Store, slots: make(chan struct{}, 2), send: r.sendEarly}
	if kind := r.earlyCompression(); kind != "" {
		if r.sealer.mediaType, err = layerType(kind); err != nil {
			return nil, errors.Join(err, scratch.Close())
		}
	}
	r.sealer.ctx, r.sealer.stop = context.WithCancel(ctx)
	r.env = &op.Env{
		Store: b.Store, Dir: dir, RunDir: scratch.Path(),
		Registry:     func(n reference.Named) (op.Repository, error) { return b.Registry.Repository(n) },
		Executor:     b.Executor,
		Secrets:      secrets(o.Secrets),
		SSH:          o.SSH,
		Entitlements: o.Entitlements,
		CDIDirs:      b.CDIDirs,
		Warn:         r.warnf,
	}
	r.env.FillCache = r.fillMount
	if x, ok := b.Executor.(beginner); ok {
		if r.session, err = x.Begin(); err != nil {
			return nil, errors.Join(err, scratch.Close())
		}
		r.env.Executor = r.session
	}
	if o.Provenance != nil {
		r.record = provenance.NewRecord()
	}
	if c := o.Caller; c != nil {
		r.env.OpenLocal, r.env.FindLayout, r.env.FindSSH, r.env.HTTP = c.Local, c.Layout, c.SSH, c.HTTP
		r.env.Secrets, r.env.KeepFailed = c.Secrets, c.KeepFailed
	}
	if err := r.openCache(ctx); err != nil {
		return nil, errors.Join(err, r.close())
	}
	r.solver = r.newSolver()
	return r, nil
}

func (r *run) newSolver() *solver.Solver[op.Result] {
	return solver.New[op.Result](r.cache, solver.Options{Parallel: r.o.Parallel, Events: r.journal.event})
}

func (r *run) close() error {
	r.sealer.stop()
	r.sealer.wait()
	r.cache.wait()
	errs := []error{r.views.close(), r.env.Close()}
	if r.session != nil {
		errs = append(errs, r.session.Close())
	}
	errs = append(errs, r.scratch.Close())
	if r.disk != nil {
		errs = append(errs, r.disk.Close())
	}
	return errors.Join(errs...)
}

func (r *run) warnf(format string, args ...any) {
	r.journal.warn(dockerfile.Warning{Text: fmt.Sprintf(format, args...)})
}

func (r *run) build(ctx context.Context) (Result, error) {
	compile, err := r.frontend(ctx)
	if err != nil {
		return Result{}, err
	}
	if len(r.names.push) > 0 {
		if r.early, err = r.b.Registry.Repository(r.names.push[0].name); err != nil {
			return Result{}, err
		}
		r.early.Source = r.b.Store.Content
	}
	compiled, err := compile(ctx, (*backend)(r))
	if err != nil {
		return Result{}, err
	}
	if compiled.Answer != nil {
		return Result{Answer: compiled.Answer, Wrong: r.explain(compiled.Wrong)}, nil
	}
	for i := range compiled.Images { // what is stated of them has to be what is built
		img := &compiled.Images[i]
		if img.Definition, err = r.permit(ctx, img.Definition); err != nil {
			return Result{}, err
		}
	}
	r.index = compiled.Index
	r.claims = map[bool]bool{false: claimed(compiled.Images, false), true: claimed(compiled.Images, true)}
	for i := range compiled.Images {
		img := &compiled.Images[i]
		if r.o.Epoch != nil {
			img.Epoch = r.o.Epoch.Time
		}
		r.epoch = img.Epoch
	}
	states, err := r.solveAll(ctx, func(ctx context.Context) ([]op.Result, error) {
		states := make([]op.Result, len(compiled.Images))
		g, gctx := errgroup.WithContext(ctx)
		for i, img := range compiled.Images {
			g.Go(func() (err error) {
				states[i], err = r.solve(gctx, img.Definition, sealing{spine: true, epoch: img.Epoch})
				return err
			})
		}
		return states, g.Wait()
	})
	if err != nil {
		return Result{}, err
	}
	r.journal.unneeded()
	res, err := r.export(ctx, solved{compiled, states})
	if err != nil {
		return res, err
	}
	return res, r.finishCache(ctx, states)
}
