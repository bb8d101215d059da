package build

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/export"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/remotecache"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/cache/outfile"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/dockerfile"
	"github.com/teu-dev/teu/registry/archive"
)

// solved is what the frontend made of the Dockerfile, and for each of its images the state that becomes its files.
type solved struct {
	*dockerfile.Result
	states []op.Result
}

// export gives the user what was asked for.
func (r *run) export(ctx context.Context, s solved) (Result, error) {
	res := Result{}
	stored := false
	for i, out := range outputsOf(r.o) {
		names, form := r.names.outputs[i], r.names.formOf[i]
		var err error
		var made Result
		switch out.Type {
		case "image":
			made = res
			err = r.image(ctx, &made, s, variant{form, r.stated(false)}, func(c *solver.Console) error {
				return r.name(ctx, c, &made, s.states, names, r.names.forms[form].ByDigest)
			})
			res, stored = made, true
		case "oci", "docker":
			made = res
			stated := r.stated(true) || r.names.forms[form].FileStatements && r.stated(false)
			if err = r.image(ctx, &made, s, variant{form, stated}, nil); err == nil {
				err = r.archive(ctx, made, out, names)
			}
			if res.Target.Digest == "" {
				res = made
			}
		case "cacheonly":
		case "tar", "local":
			err = r.files(ctx, out, s)
		default:
			err = invalidf("unknown output type %q", out.Type)
		}
		if err != nil {
			return res, err
		}
		res.Targets = append(res.Targets, made.Target)
	}
	if len(r.names.push) > 0 {
		pushed, err := r.push(ctx, s)
		if !stored {
			res.Target, res.Config, res.Index = pushed.Target, pushed.Config, pushed.Index
		}
		return res, err
	}
	return res, nil
}

// needsBytes says whether all layers have to be in the store in the end. An image that is only pushed
// is also named here, but only if its layers are here anyway.
func (r *run) needsBytes() bool {
	stays := slices.ContainsFunc(outputsOf(r.o), func(o Output) bool { return o.Type == "image" && !o.Push && !r.o.Push })
	written := slices.ContainsFunc(r.o.Outputs, func(o Output) bool { return o.Type != "image" && o.Type != "cacheonly" })
	recompressed := slices.ContainsFunc(r.names.forms, func(f Form) bool { return f.Recompress })
	return r.o.Load || stays || recompressed || written
}

// A variant is one of the images that a build may make of the same files.
type variant struct {
	form   int  // of naming.forms
	stated bool // it has statements about it
}

// image makes an image in the store, unless that was done, and does with it what then says, as a part of the
// same step. then may be nil.
func (r *run) image(ctx context.Context, res *Result, s solved, v variant, then func(c *solver.Console) error) error {
	use := func(c *solver.Console, made madeImage) error {
		res.Target, res.Config, res.Index = made.target, made.config, made.index
		r.labels = made.labels
		if then == nil {
			return nil
		}
		return then(c)
	}
	if made, ok := r.made[v]; ok {
		return use(nil, made)
	}
	return r.makeImage(ctx, s, v, func(c *solver.Console, made madeImage) error {
		if r.made == nil {
			r.made = map[variant]madeImage{}
		}
		r.made[v] = made
		return use(c, made)
	})
}

// A madeImage is an image in the store.
type madeImage struct {
	target ocispec.Descriptor // with annotations, where it leaves
	config digest.Digest      // of the first platform
	labels map[string]string  // there
	index  bool
}

func (r *run) makeImage(ctx context.Context, s solved, v variant, then func(c *solver.Console, made madeImage) error) error {
	form, stated := r.names.forms[v.form], v.stated
	notes, err := parseAnnotations(form.Annotations)
	if err != nil {
		return err
	}
	if err := notes.match(s.Images); err != nil {
		return err
	}
	if stated && form.DockerTypes {
		return invalidf("statements about an image need OCI's media types: leave oci-mediatypes=false away, or --provenance")
	}
	index := r.index || notes.needIndex()
	return r.step(ctx, "exporting to image", func(c *solver.Console) error {
		sources := make([]export.Source, len(s.Images))
		for i, img := range s.Images {
			layers, err := r.layers(s.states[i])
			if err != nil {
				return err
			}
			config := img.Config
			if r.inline {
				if config, err = remotecache.Embed(config, r.inlineSteps(s.states[i])); err != nil {
					return err
				}
			}
			sources[i] = export.Source{
				Platform: img.Platform, Layers: layers,
				Config: config, BaseConfig: img.BaseConfig, Epoch: img.Epoch,
				Annotations: notes.at("manifest", img.Platform), DescriptorAnnotations: notes.at("manifest-descriptor", img.Platform),
			}
			if !stated {
				continue
			}
			sources[i].Statements = func(layers []ocispec.Descriptor) ([]export.Statement, error) {
				return r.statements(ctx, c, s, i, layers)
			}
			if sources[i].Subjects, err = r.subjects(img.Platform); err != nil {
				return err
			}
		}
		img, err := export.Commit(ctx, r.b.Store, sources, export.Options{
			Compression: r.compression(form),
			Index:       index, Rewritten: form.Rewritten,
			Recompress: form.Recompress, DockerTypes: form.DockerTypes && len(notes.list) == 0,
			IndexAnnotations: notes.at("index", ocispec.Platform{}), StatementsAsImage: form.StatementsAsImage,
			Status: func(text string) { c.Status(solver.Status{ID: text, Done: true}) },
		})
		if err != nil {
			return err
		}
		made := madeImage{target: img.Target, config: img.Config, index: index || stated}
		if made.index {
			made.target.Annotations = notes.at("index-descriptor", ocispec.Platform{})
		}
		if made.labels, err = labelsOf(sources[0].Config); err != nil {
			return err
		}
		return then(c, made)
	})
}

// labelsOf returns the labels in the config of an image.
func labelsOf(config []byte) (map[string]string, error) {
	var img ocispec.Image
	err := json.Unmarshal(config, &img)
	return img.Config.Labels, err
}

// compression is what the layers that were built need in a form of the image: none to stay here.
func (r *run) compression(form Form) string {
	travels := len(r.names.push) > 0
	for _, out := range r.o.Outputs {
		travels = travels || out.Type == "oci" || out.Type == "docker"
	}
	// What is stated of an image is of its digest, which compressing its layers later would change.
	travels = travels || form.DockerTypes || form.Recompress || r.stated(false)
	if form.Compression == "" && travels {
		return "gzip"
	}
	return form.Compression
}

// earlyCompression is what layers are compressed with as soon as they are there: what the first output needs that is pushed,
// or else the first that needs any.
func (r *run) earlyCompression() string {
	if len(r.names.push) > 0 {
		return r.compression(r.names.forms[r.names.push[0].form])
	}
	for _, form := range r.names.formOf {
		if kind := r.compression(r.names.forms[form]); kind != "" {
			return kind
		}
	}
	return ""
}

// layers returns the layers of a state.
func (r *run) layers(state op.Result) ([]export.Layer, error) {
	ids, _, err := r.env.LocalIDs(state)
	if err != nil {
		return nil, err
	}
	list := make([]export.Layer, len(ids))
	for i, id := range ids {
		list[i] = export.Layer{ID: id, Description: "created by teu"}
		l := state.Layers[i]
		list[i].DiffID, list[i].Blob, list[i].Created = l.DiffID, l.Blob, l.Created
	}
	return list, nil
}

// name names the image, so that it stays, and says so to c unless it is nil; nameless: under its digest only.
func (r *run) name(ctx context.Context, c *solver.Console, res *Result, states []op.Result, names []reference.Named, nameless bool) error {
	for _, state := range states {
		if _, missing, err := r.env.LocalIDs(state); err != nil || len(missing) > 0 {
			return err
		}
	}
	now := time.Now().UTC()
	target := res.Target
	target.Annotations = nil // they are of what leaves
	r.kept = true
	if len(names) == 0 || nameless {
		return r.b.Store.Images.Put(ctx, image.Image{Target: target, Created: now})
	}
	for _, n := range names {
		name := n.String()
		if err := r.rename(ctx, image.Image{Name: name, Target: target, Created: now}, res.Config); err != nil {
			return fmt.Errorf("naming to %s: %w", name, err)
		}
		if c != nil {
			c.Status(solver.Status{ID: "naming to " + name, Done: true}) // BuildKit's words, which are looked for
		}
		if !slices.Contains(res.Names, name) {
			res.Names = append(res.Names, name)
		}
	}
	return nil
}

// tell tells of the image that is in the store, and of its names there.
func (r *run) tell(res Result) {
	if !r.kept || r.b.Tell == nil {
		return
	}
	id := res.Config.String()
	r.b.Tell("create", id, id, r.labels)
	for _, name := range res.Names {
		r.b.Tell("tag", id, listing.Familiar(name), r.labels)
	}
}

// rename names an image. What had the name becomes a dangling image, unless it is the same one with
// its layers compressed, or not.
func (r *run) rename(ctx context.Context, img image.Image, id digest.Digest) error {
	old, err := r.b.Store.Images.Get(img.Name)
	same := false
	if err == nil && old.Target.Digest != img.Target.Digest {
		was, err := r.b.Store.ImageID(ctx, old.Target)
		same = err == nil && was == id
	}
	if err := r.b.Store.Images.Put(ctx, img); err != nil || !same {
		return err
	}
	if err := r.b.Store.Images.DeleteDangling(ctx, old.Target.Digest); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// progress shows the transfer of blobs on c.
func progress(c *solver.Console) content.Progress {
	return func(e content.Event) {
		if e.Desc.Digest == "" {
			return
		}
		c.Status(solver.Status{
			ID:      short(e.Desc.Digest),
			Current: e.Current, Total: e.Total,
			Done: e.Kind == content.EventDone || e.Kind == content.EventExists,
		})
	}
}

func short(d digest.Digest) string {
	hex := d.Encoded()
	return d.Algorithm().String() + ":" + hex[:min(12, len(hex))]
}

// archive writes the image as one tar, in the form that all tools read.
func (r *run) archive(ctx context.Context, res Result, out Output, names []reference.Named) error {
	return r.step(ctx, "exporting to "+out.Type+" image format", func(c *solver.Console) error {
		img := archive.Image{Target: res.Target, Annotations: res.Target.Annotations}
		for _, n := range names {
			img.Names = append(img.Names, n.String())
		}
		write := writeTo
		if out.Dir {
			write = writeLayout
		}
		return write(out, func(w io.Writer) error {
			return archive.Save(ctx, w, r.b.Store.Content, []archive.Image{img}, archive.SaveOptions{Progress: progress(c)})
		})
	})
}

// files writes the filesystems themselves; those of several platforms into directories.
func (r *run) files(ctx context.Context, out Output, s solved) error {
	if out.Type == "local" && (out.Dest == "" || out.Dest == "-") {
		return invalidf("output type=local needs dest=DIRECTORY")
	}
	if out.Type == "local" {
		return r.step(ctx, "exporting to client directory", func(c *solver.Console) error {
			taken, err := r.trees(ctx, c, out, s, treeWriter{
				files:     func(root *rootfs.Dir, o export.TreeOptions) error { return export.WriteDir(ctx, out.Dest, root, o) },
				statement: func(f export.StatementFile) error { return f.WriteDir(out.Dest) },
			})
			if err == nil && out.Mirror {
				err = export.RemoveOthers(ctx, out.Dest, taken)
			}
			if err == nil && out.Deliver != nil {
				err = out.Deliver(ctx)
			}
			return err
		})
	}
	return r.step(ctx, "exporting to client tarball", func(c *solver.Console) error {
		return writeTo(out, func(w io.Writer) error {
			tw := tar.NewWriter(w)
			_, err := r.trees(ctx, c, out, s, treeWriter{
				files:     func(root *rootfs.Dir, o export.TreeOptions) error { return export.WriteTar(ctx, tw, root, o) },
				statement: func(f export.StatementFile) error { return f.WriteTar(tw) },
			})
			if err != nil {
				return err
			}
			return tw.Close()
		})
	})
}

// treeWriter writes the files of an image, and what is stated of them.
type treeWriter struct {
	files     func(*rootfs.Dir, export.TreeOptions) error
	statement func(export.StatementFile) error
}

// trees writes the filesystem of each image. It returns the paths of all files.
func (r *run) trees(ctx context.Context, c *solver.Console, out Output, s solved, w treeWriter) (map[string]bool, error) {
	split := r.index
	if out.Split != nil {
		split = *out.Split
	}
	taken := map[string]bool{}
	for i, img := range s.Images {
		o := export.TreeOptions{Epoch: img.Epoch, Taken: taken}
		if split {
			o.Prefix = platformDir(img.Platform)
		}
		view, err := r.env.View(ctx, c, s.states[i])
		if err != nil {
			return nil, err
		}
		err = writeBelow(view.Dir, out.Source, o, func(root *rootfs.Dir, o export.TreeOptions) error {
			if err := w.files(root, o); err != nil || !r.stated(true) {
				return err
			}
			list, err := r.fileStatements(ctx, c, out, s, i, root, o)
			if err != nil {
				return err
			}
			for _, f := range list {
				if err := w.statement(f); err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(err, view.Close()); err != nil {
			return nil, err
		}
	}
	return taken, nil
}

// writeBelow calls write with the directory source of root.
func writeBelow(root *rootfs.Dir, source string, o export.TreeOptions, write func(*rootfs.Dir, export.TreeOptions) error) error {
	if source == "" {
		return write(root, o)
	}
	f, err := root.OpenFile(source, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("src=%s: %w", source, errors.Unwrap(err))
	}
	dir := rootfs.FromFile(f)
	return errors.Join(write(dir, o), dir.Close())
}

// writeTo calls write with the file of out.
func writeTo(out Output, write func(io.Writer) error) error {
	if out.Dest == "" || out.Dest == "-" {
		if out.Writer == nil {
			return invalidf("output type=%s needs dest=FILE", out.Type)
		}
		return write(out.Writer)
	}
	if err := os.MkdirAll(filepath.Dir(out.Dest), 0o755); err != nil {
		return err
	}
	return outfile.Write(out.Dest, 0o644, write)
}
