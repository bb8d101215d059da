package buildkit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc/codes"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/cache/content"
)

// A wish is a client's request in the words of package build.
type wish struct {
	c      *caller
	o      build.Options
	files  []*fileOutput
	names  []string // of the last output that has some: that is what BuildKit answers
	layout string   // the directory of an image that the client wants as such; "": there is none
	leave  bool     // something leaves this machine
	talks  bool     // the client says what to build as it goes
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrNotImplemented)
}

// read takes what the request says beside what to build.
func (w *wish) read(req *controlapi.SolveRequest) error {
	var err error
	if w.o.Policy, err = w.c.policy(req.SourcePolicy, req.SourcePolicySession); err != nil {
		return err
	}
	if req.ProxyNetwork {
		return unsupported("a network that only leads through a proxy")
	}
	if req.EnableSessionExporter {
		return unsupported("outputs that the client chooses later")
	}
	w.o.Entitlements = req.Entitlements
	exporters := exporters(req)
	for id, e := range exporters {
		if err := w.output(id, e.GetType(), e.GetAttrs()); err != nil {
			return fmt.Errorf("exporter %s: %w", e.GetType(), err)
		}
	}
	if len(exporters) == 0 {
		w.o.Outputs = []build.Output{{Type: "cacheonly"}}
	}
	if err := w.statements(req.FrontendAttrs); err != nil {
		return err
	}
	if err := w.platforms(req.FrontendAttrs["platform"]); err != nil {
		return err
	}
	var from []string
	if refs := req.FrontendAttrs["cache-from"]; refs != "" {
		from = strings.Split(refs, ",")
	}
	return w.caches(req.Cache, from)
}

// exporters returns those of a request, older clients' too.
func exporters(req *controlapi.SolveRequest) []*controlapi.Exporter {
	if len(req.Exporters) == 0 && req.ExporterDeprecated != "" {
		return []*controlapi.Exporter{{Type: req.ExporterDeprecated, Attrs: req.ExporterAttrsDeprecated}}
	}
	return req.Exporters
}

// platforms takes those that are built for. The frontend reads them by itself; whose images of an index have a cache
// inside for this build, it does not say.
func (w *wish) platforms(list string) error {
	if list == "" {
		return nil
	}
	for text := range strings.SplitSeq(list, ",") {
		p, err := platforms.Parse(text)
		if err != nil {
			return fmt.Errorf("platform %q: %w: %w", text, errdefs.ErrInvalidArgument, err)
		}
		w.o.Platforms = append(w.o.Platforms, p)
	}
	return nil
}

// unasked is the statement that buildx adds by itself to whatever it builds.
const unasked = "mode=min,inline-only=true"

// statements takes what is to be stated about the result. What clients add by themselves is for images that
// leave this machine: those that stay keep the digests and IDs that they have without.
func (w *wish) statements(attrs map[string]string) error {
	wanted := map[string]string{}
	for name, settings := range attrs {
		kind, ok := strings.CutPrefix(name, "attest:")
		if !ok {
			kind, ok = strings.CutPrefix(name, "build-arg:BUILDKIT_ATTEST_")
		}
		kind = strings.ToLower(kind)
		if ok && (kind != "provenance" || settings != unasked || w.pushes()) {
			wanted[kind] = settings
		}
	}
	return w.o.SetStatements(wanted)
}

func (w *wish) pushes() bool {
	return slices.ContainsFunc(w.o.Outputs, func(o build.Output) bool { return o.Push })
}

// caches takes which caches are meant: those of the request, and the references that older clients of the
// frontend name.
func (w *wish) caches(c *controlapi.CacheOptions, from []string) error {
	imports := c.GetImports()
	for _, ref := range append(c.GetImportRefsDeprecated(), from...) {
		imports = append(imports, &controlapi.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	for _, e := range imports {
		if t := e.GetType(); t != "registry" && t != "local" {
			return unsupported("importing a cache of type=%s; type=registry and type=local are there", t)
		}
		w.o.CacheFrom = append(w.o.CacheFrom, build.CacheRef{Type: e.Type, Args: e.Attrs})
	}
	var local map[string]string // the attributes of a cache of type local
	exports := c.GetExports()
	if ref := c.GetExportRefDeprecated(); ref != "" {
		exports = append(exports, &controlapi.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
	}
	for _, e := range exports {
		if t := e.GetType(); t != "registry" && t != "inline" && t != "local" {
			return unsupported("exporting a cache of type=%s; type=registry, type=local and type=inline are there", t)
		}
		if e.Type == "local" {
			// The client is told of one index, and puts it into index.json of all its directories.
			attrs := maps.Clone(e.Attrs)
			maps.DeleteFunc(attrs, func(name, _ string) bool {
				return slices.Contains([]string{"dest", "tag", "reset", "ignore-error"}, name)
			})
			if local == nil {
				local = attrs
			}
			if !maps.Equal(local, attrs) {
				return unsupported("exporting caches of type=local without the same attributes")
			}
		}
		w.o.CacheTo = append(w.o.CacheTo, build.CacheRef{Type: e.Type, Args: e.Attrs})
	}
	return nil
}

// output adds the exporter that the client knows by id.
func (w *wish) output(id int, kind string, attrs map[string]string) error {
	out := build.Output{Type: kind}
	if err := w.o.SetImage(&out, attrs); err != nil {
		return err
	}
	if names := attrs["name"]; names != "" {
		out.Names = strings.Split(names, ",")
		if kind == "oci" || kind == "docker" {
			// The client writes them into index.json, as they are.
			for i, name := range out.Names {
				named, err := reference.ParseNormalizedNamed(name)
				if err != nil {
					return fmt.Errorf("name %q: %w: %w", name, errdefs.ErrInvalidArgument, err)
				}
				out.Names[i] = reference.TagNameOnly(named).String()
			}
		}
		w.names = out.Names
	}
	switch kind {
	case "moby", "image":
		out.Type, out.Push = "image", build.Yes(attrs["push"])
		w.leave = w.leave || out.Push
		w.o.Load = w.o.Load || attrs["unpack"] != "false"
	case "oci", "docker":
		w.leave = true
		if tar, ok := attrs["tar"]; ok && !build.Yes(tar) {
			dir, release, err := w.c.builder.Mirror("", "", func(string) error { return nil })
			if err != nil {
				return err
			}
			w.c.keep(release)
			out.Dest, out.Dir, w.layout = dir, true, dir
			break
		}
		f := w.file(id)
		f.optional = true
		out.Writer = f
	case "tar":
		out.Writer = w.file(id)
	case "local":
		dir, release, err := w.c.builder.Mirror("", "", func(string) error { return nil })
		if err != nil {
			return err
		}
		w.c.keep(release)
		out.Dest = dir
		out.Deliver = func(ctx context.Context) error { return w.deliver(ctx, id, dir, attrs) }
	default:
		return unsupported("it is none of image, oci, docker, tar and local")
	}
	if split, ok := attrs["platform-split"]; ok {
		b, err := strconv.ParseBool(split)
		if err != nil {
			return fmt.Errorf("platform-split=%s: %w", split, errdefs.ErrInvalidArgument)
		}
		out.Split = &b
	}
	out.Source, out.StatementPrefix = attrs["src"], attrs["attestation-prefix"]
	w.o.Outputs = append(w.o.Outputs, out)
	return nil
}

// deliver sends a directory to the client.
func (w *wish) deliver(ctx context.Context, id int, dir string, attrs map[string]string) error {
	s, err := w.c.of(ctx, "")
	if err != nil {
		return err
	}
	files, err := fsutil.NewFS(dir)
	if err != nil {
		return err
	}
	var opts []filesync.CopyToCallerOpt
	if attrs["mode"] == "delete" {
		opts = append(opts, filesync.WithExporterMultiPlatformTransfer()) // all is in this one transfer
	}
	return filesync.CopyToCaller(ctx, files, id, s, nil, opts...)
}

// A fileOutput is a file of the client.
type fileOutput struct {
	c      *caller
	id     int
	w      io.WriteCloser
	cancel context.CancelFunc

	optional bool // the client may have no use for it, and answers that it has it
	declined bool
}

func (w *wish) file(id int) *fileOutput {
	f := &fileOutput{c: w.c, id: id}
	w.files = append(w.files, f)
	w.c.keep(func() error {
		if f.cancel != nil {
			f.cancel()
		}
		return nil
	})
	return f
}

// Write implements io.Writer. The file is opened by the first.
func (f *fileOutput) Write(b []byte) (int, error) {
	if f.w == nil {
		ctx, cancel := context.WithCancel(context.Background())
		f.cancel = cancel
		s, err := f.c.of(ctx, "")
		if err != nil {
			return 0, err
		}
		if f.w, err = filesync.CopyFileWriter(ctx, nil, f.id, s); err != nil {
			return 0, err
		}
	}
	if f.declined {
		return len(b), nil
	}
	n, err := f.w.Write(b)
	if f.declines(err) {
		return len(b), nil
	}
	return n, err
}

// close ends the file.
func (f *fileOutput) close() error {
	if f.w == nil || f.declined {
		return nil
	}
	err := f.w.Close()
	if f.declines(err) {
		return nil
	}
	return err
}

// declines says whether err is the client's way not to take the file. BuildKit's exporter of OCI archives
// succeeds then (exporter/oci/export.go of v0.34); its exporter of tar files fails.
func (f *fileOutput) declines(err error) bool {
	f.declined = f.declined || f.optional && err != nil && grpcerrors.Code(err) == codes.AlreadyExists
	return f.declined
}

// finish ends the files, which only a build that succeeded does, and sends the layout.
func (w *wish) finish(ctx context.Context, res build.Result) error {
	var errs []error
	if w.layout != "" {
		errs = append(errs, w.sendLayout(ctx, res))
	}
	for _, f := range w.files {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

// sendLayout brings the image into the one store of blobs that clients have for it. They make index.json.
func (w *wish) sendLayout(ctx context.Context, res build.Result) error {
	s, err := w.c.of(ctx, "")
	if err != nil {
		return err
	}
	return content.Copy(ctx, newClientStore(s, "export"), content.At(w.layout), res.Target, content.CopyOptions{Foreign: true})
}

// response tells the client what was made, by the names of BuildKit's exporters.
func (w *wish) response(res build.Result) (map[string]string, error) {
	m := map[string]string{}
	for name, value := range res.Answer {
		m[name] = string(value)
	}
	if res.Target.Digest == "" {
		return m, nil
	}
	desc, err := json.Marshal(res.Target)
	if err != nil {
		return nil, err
	}
	m[exptypes.ExporterImageDigestKey] = res.Target.Digest.String()
	if !w.leave && !res.Index {
		// As with dockerd's older store of images, whose IDs are those of their configs: compose compares it
		// with the ID of the image.
		m[exptypes.ExporterImageDigestKey] = res.Config.String()
	}
	m[exptypes.ExporterImageDescriptorKey] = base64.StdEncoding.EncodeToString(desc)
	if !res.Index {
		m[exptypes.ExporterImageConfigDigestKey] = res.Config.String()
	}
	if len(w.names) > 0 {
		m[exptypes.ExporterImageNameKey] = strings.Join(w.names, ",")
	}
	return m, nil
}
