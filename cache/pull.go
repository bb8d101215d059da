package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/content"
)

// PullOptions change how Pull works.
type PullOptions struct {
	Platform    *ocispec.Platform // nil: the host's
	Concurrency int               // layers at once; 0 means 4
	Progress    content.Progress
}

// Pull stores and unpacks the image for one platform behind root. Each layer is fetched,
// verified, decompressed, verified and unpacked in one stream; what is there already is
// neither fetched nor unpacked. The memory needed does not grow with the layers. A Pull that was
// killed leaves whole layers or nothing. The caller holds a pin and names the image afterwards.
func (s *Store) Pull(ctx context.Context, src content.Fetcher, root ocispec.Descriptor, o PullOptions) (content.Image, error) {
	platform := content.Host()
	if o.Platform != nil {
		platform = *o.Platform
	}
	img, err := content.Resolve(ctx, s.Keep(src), root, platform)
	if err != nil {
		return content.Image{}, err
	}
	lasting, err := s.lasting(ctx, img)
	if err != nil {
		return content.Image{}, err
	}
	g, ctx := errgroup.WithContext(ctx)
	if !lasting {
		// What earlier commands unpacked becomes safe from a power loss while we wait for the network. Who
		// pulls what is here waits for nothing, and the disk may have much to write that is not ours.
		g.Go(func() error { return s.Layers.Sync(ctx) })
	}
	g.Go(func() error {
		_, err := s.unpack(ctx, img, src, o)
		return err
	})
	return img, g.Wait()
}

// Unpack returns the layers of img, lowest first, unpacking from local blobs what is not unpacked.
// The caller holds a pin. A blob that is neither unpacked nor local is an errdefs.ErrNotFound.
func (s *Store) Unpack(ctx context.Context, img content.Image) (layerIDs []string, err error) {
	return s.UnpackFrom(ctx, img, nil)
}

// UnpackFrom is Unpack that has what is neither unpacked nor local fetched from src, and stored, as Pull
// does. A nil src is Unpack.
func (s *Store) UnpackFrom(ctx context.Context, img content.Image, src content.Fetcher) (layerIDs []string, err error) {
	// Nobody waits for a network, so one layer more than there are processors is enough, for when one is synced.
	return s.unpack(ctx, img, src, PullOptions{Concurrency: min(4, 1+runtime.GOMAXPROCS(0))})
}

// unpack has all layers of img unpacked, from src if they are not local. A nil src means nowhere.
func (s *Store) unpack(ctx context.Context, img content.Image, src content.Fetcher, o PullOptions) ([]string, error) {
	diffIDs := img.Config.RootFS.DiffIDs
	if len(diffIDs) != len(img.Manifest.Layers) {
		return nil, fmt.Errorf("image %s: %d diffIDs for %d layers: %w", img.Descriptor.Digest,
			len(diffIDs), len(img.Manifest.Layers), errdefs.ErrInvalidArgument)
	}
	if o.Concurrency <= 0 {
		o.Concurrency = 4
	}
	ids := make([]string, len(diffIDs))
	first := map[digest.Digest]int{} // an empty layer is often in an image more than once
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Concurrency)
	for i, diffID := range diffIDs {
		if _, again := first[diffID]; again {
			continue
		}
		first[diffID] = i
		g.Go(func() (err error) {
			ids[i], err = s.layer(gctx, diffID, img.Manifest.Layers[i], src, o.Progress)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, diffID := range diffIDs {
		ids[i] = ids[first[diffID]]
	}
	return ids, nil
}

// PullLayer returns the ID of the layer diffID, whose blob is d, fetching it from src and unpacking it
// unless it is here. The caller holds a pin.
func (s *Store) PullLayer(ctx context.Context, diffID digest.Digest, d ocispec.Descriptor, src content.Fetcher, p content.Progress) (id string, err error) {
	return s.layer(ctx, diffID, d, src, p)
}

// layer returns the ID of the layer diffID, whose blob is d.
func (s *Store) layer(ctx context.Context, diffID digest.Digest, d ocispec.Descriptor, src content.Fetcher, p content.Progress) (string, error) {
	id, ok, err := s.unpacked(diffID)
	if err != nil {
		return "", err
	}
	if ok {
		tell(p, content.EventExists, d)
		// Its blob, if it is there, is still this image's.
		_, err := s.Content.Exists(ctx, d)
		return id, err
	}
	id, err = s.fromBlob(ctx, diffID, d)
	if local := err; src != nil && (errdefs.IsNotFound(local) || errdefs.IsDataLoss(local)) {
		id, err = s.fromSource(ctx, diffID, d, src, errdefs.IsDataLoss(local), p)
		if errdefs.IsNotFound(err) && errdefs.IsDataLoss(local) {
			err = fmt.Errorf("%w; fetching it again: %v", local, err)
		}
	}
	if err != nil {
		return "", err
	}
	tell(p, content.EventUnpacked, d)
	return id, nil
}

func tell(p content.Progress, kind content.EventKind, d ocispec.Descriptor) {
	if p != nil {
		p(content.Event{Kind: kind, Desc: d, Current: d.Size, Total: d.Size})
	}
}

// lasting says whether all layers of img are unpacked and nothing of them is lost when the power is. Where a
// layer may be, its blob is enough; one that was built here may have none.
func (s *Store) lasting(ctx context.Context, img content.Image) (bool, error) {
	for i, d := range img.Manifest.Layers {
		if i >= len(img.Config.RootFS.DiffIDs) {
			break // which unpack refuses
		}
		l, err := s.Layers.ByDiffID(img.Config.RootFS.DiffIDs[i])
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		safe, err := s.Layers.Synced(l.ID)
		if err == nil && !safe {
			safe, err = s.Content.Exists(ctx, d)
		}
		if err != nil || !safe {
			return false, err
		}
	}
	return true, nil
}

// unpacked finds a layer and touches it.
func (s *Store) unpacked(diffID digest.Digest) (id string, ok bool, err error) {
	l, err := s.Layers.ByDiffID(diffID)
	if errdefs.IsNotFound(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	ok, err = s.Layers.Touch(l.ID)
	return l.ID, ok, err
}

// fromBlob unpacks the local blob d.
func (s *Store) fromBlob(ctx context.Context, diffID digest.Digest, d ocispec.Descriptor) (string, error) {
	ok, err := s.Content.Exists(ctx, d)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("blob %s of layer %s is not here: %w", d.Digest, diffID, errdefs.ErrNotFound)
	}
	r, err := s.Content.Fetch(ctx, d)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return s.apply(ctx, diffID, d, r, nil, func() error { return s.remember(diffID, d) })
}

// fromSource fetches d and unpacks and stores it in the same stream. It goes on with what a pull that
// died has left of d, and leaves it to another that brings the same just now, unless d is known to
// be damaged here.
func (s *Store) fromSource(ctx context.Context, diffID digest.Digest, d ocispec.Descriptor, src content.Fetcher, damaged bool, p content.Progress) (_ string, err error) {
	w, err := s.Content.Resume(ctx, d)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if !damaged {
		if ok, err := s.Content.Exists(ctx, d); err != nil {
			return "", err
		} else if ok {
			return s.fromBlob(ctx, diffID, d)
		}
	}
	begun := w.Size()
	id, err := s.receive(ctx, diffID, d, src, w, p)
	if errors.Is(err, errSlow) {
		if err = s.store(ctx, d, src, w, p); err == nil {
			return s.fromBlob(ctx, diffID, d)
		}
		id = ""
	}
	// After a power loss the beginning may be other bytes than were written. Once d is committed, so
	// that it cannot be the blob's fault, Restart fails.
	if begun > 0 && spoilt(err) && w.Restart() == nil {
		id, err = s.receive(ctx, diffID, d, src, w, p)
	}
	if from, ok := src.(doubter); ok && spoilt(err) && !errors.Is(err, unix.ENOSPC) && from.Doubt() && w.Restart() == nil {
		id, err = s.receive(ctx, diffID, d, src, w, p)
	}
	if spoilt(err) {
		err = errors.Join(err, w.Discard())
	}
	return id, err
}

// A doubter is a content.Fetcher that has blobs from several servers, not all of which are to be believed.
type doubter interface {
	// Doubt says that a blob was not what it should be, and whether another server may be asked for it.
	Doubt() bool
}

// spoilt says whether after err it is no use to go on with the same bytes.
func spoilt(err error) bool {
	return errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err) || errors.Is(err, unix.ENOSPC)
}

// errSlow is a layer of which so little comes that others should not wait until it is unpacked.
var errSlow = errors.New("the source is slow and others wait")

// store fetches and stores what w does not have of d, and unpacks nothing.
func (s *Store) store(ctx context.Context, d ocispec.Descriptor, src content.Fetcher, w *content.Writer, p content.Progress) (err error) {
	if ok, err := s.Content.Exists(ctx, d); ok || err != nil { // it was unpacking that took its time
		return err
	}
	r, err := fetchRest(ctx, src, d, w)
	if err != nil {
		return fmt.Errorf("fetching layer %s: %w", d.Digest, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if _, err := io.Copy(w, p.ReaderFrom(content.ContextReader(ctx, r), d, w.Size())); err != nil {
		return fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	if _, err := w.Commit(ctx, ""); err != nil {
		return fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	tell(p, content.EventDone, d)
	return nil
}

// receive fetches what w does not have of d and unpacks it. An errSlow leaves the rest to store.
func (s *Store) receive(ctx context.Context, diffID digest.Digest, d ocispec.Descriptor, src content.Fetcher, w *content.Writer, p content.Progress) (_ string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, err := fetchRest(ctx, src, d, w)
	if err != nil {
		return "", fmt.Errorf("fetching layer %s: %w", d.Digest, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	rest := io.TeeReader(p.ReaderFrom(content.ContextReader(ctx, r), d, w.Size()), w)
	// Three things go on at the same time: receiving, digesting and storing; decompressing and
	// digesting; making files. The first has its goroutine here, the others in layer.Apply.
	ahead := newReadAhead(io.MultiReader(w.Have(), rest))
	giveUp := func() { cancel(errSlow) }
	id, err := s.apply(ctx, diffID, d, ahead, giveUp, func() error {
		if _, err := w.Commit(ctx, ""); err != nil {
			return err
		}
		tell(p, content.EventDone, d)
		return s.remember(diffID, d)
	})
	if err != nil {
		if context.Cause(ctx) == errSlow {
			err = errSlow // which says more than what it led to
		}
		cancel(nil) // or Close would wait for bytes nobody wants any more
		// What the reader of them says then comes from that, or from the same cause.
		_ = ahead.Close()
		return "", err
	}
	return id, ahead.Close()
}

// fetchRest asks src for what w does not have of d. Only w verifies it.
func fetchRest(ctx context.Context, src content.Fetcher, d ocispec.Descriptor, w *content.Writer) (io.ReadCloser, error) {
	if from, ok := src.(content.RangeFetcher); ok {
		return from.FetchFrom(ctx, d, w.Size())
	}
	if err := w.Restart(); err != nil {
		return nil, err
	}
	return src.Fetch(ctx, d)
}

// apply unpacks d, whose compressed bytes are r. They are read to their end, so that all of d is
// verified, and then verified is called, before the layer becomes visible: whoever is killed leaves no
// layer without its blob. giveUp is that of [content.DecompressSlow].
func (s *Store) apply(ctx context.Context, diffID digest.Digest, d ocispec.Descriptor, r io.Reader, giveUp func(), verified func() error) (_ string, err error) {
	plain, err := content.DecompressSlow(ctx, r, giveUp)
	if err != nil {
		return "", fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	finish := sync.OnceValue(func() error {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
		return verified()
	})
	l, err := s.Layers.Apply(ctx, diffID, &finishingReader{plain, finish})
	if err == nil {
		err = finish() // Apply reads nothing of a layer that somebody else has just unpacked
	}
	if err != nil && !content.IsLayer(d.MediaType) {
		// Many types are a tar all the same, so it was worth a try.
		err = fmt.Errorf("of type %q: %w", d.MediaType, err)
	}
	if err != nil {
		return "", fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	ok, err := s.Layers.Touch(l.ID)
	if err == nil && !ok {
		err = fmt.Errorf("layer %s went while it was unpacked: %w", d.Digest, errdefs.ErrUnavailable)
	}
	return l.ID, err
}

// A finishingReader calls finish before it says that r is at its end.
type finishingReader struct {
	r      io.Reader
	finish func() error
}

func (f *finishingReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err == io.EOF {
		if ferr := f.finish(); ferr != nil {
			return n, ferr
		}
	}
	return n, err
}

// Keep returns src for manifests and configs: what is fetched of it is stored, and what is stored is not fetched
// unless it is damaged.
func (s *Store) Keep(src content.Fetcher) content.Fetcher { return &keeper{src, s.Content} }

type keeper struct {
	src   content.Fetcher
	store *content.Store
}

func (k *keeper) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	data, err := k.local(ctx, d)
	if gone(err) {
		data, err = k.fetch(ctx, d)
	}
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// local reads what is stored.
func (k *keeper) local(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	ok, err := k.store.Exists(ctx, d)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("blob %s is not here: %w", d.Digest, errdefs.ErrNotFound)
	}
	return readSmall(ctx, k.store, d)
}

// fetch fetches and stores d, unless somebody else has while it waited for him. Not by Push, which
// would take a damaged blob for stored.
func (k *keeper) fetch(ctx context.Context, d ocispec.Descriptor) (_ []byte, err error) {
	w, err := k.store.Resume(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if data, err := k.local(ctx, d); err == nil {
		return data, nil
	}
	if err := w.Restart(); err != nil {
		return nil, err
	}
	data, err := readSmall(ctx, k.src, d)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	_, err = w.Commit(ctx, "")
	return data, err
}

// readSmall reads a manifest or config.
func readSmall(ctx context.Context, f content.Fetcher, d ocispec.Descriptor) (_ []byte, err error) {
	r, err := f.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(r) // as long as the descriptor says, which Resolve has looked at
}
