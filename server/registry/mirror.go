package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"
)

// Mirror makes the repositories of another registry appear below a prefix.
type Mirror struct {
	// Prefix is where: "hub" for hub/library/debian; "" for all names, which Docker's
	// registry-mirrors needs.
	Prefix string `json:"prefix"`
	// Registry is the other's name, as containerd's ?ns= gives it: docker.io.
	Registry string `json:"registry"`
	// TTL is how long a tag is not asked for again. Negative: as long as there is a copy.
	TTL Duration `json:"ttl,omitempty"`
}

// defaultTTL is the TTL of a Mirror without one.
const defaultTTL = 30 * time.Second

// Duration is a time.Duration that is written "90s" in JSON.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Upstream is a repository of another registry.
type Upstream interface {
	// Resolve returns the descriptor of a manifest.
	Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error)
	// ResolveBlob returns the descriptor of a blob.
	ResolveBlob(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error)
	// Fetch verifies what it reads.
	Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	Tags(ctx context.Context) ([]string, error)
}

// mirrors is a storage some of whose repositories are those of other registries: what is not
// here is fetched from there, and kept. Changes to them are refused but for deletions, which
// make room.
//
// Errors of an upstream are not-found when it has nothing or does not let us in, so that
// clients go on to the next place; everything else is answered with the copy there is, if
// there is one, and a word about it.
type mirrors struct {
	storage
	list []Mirror
	open func(registry, repo string) (Upstream, error)
	temp string

	manifests singleflight.Group
	downloads downloads

	// patience is how long the upstream may take to tell whether a copy is still good, and
	// rest for how long it is not asked after it could not.
	patience, rest time.Duration

	mu      sync.Mutex
	checked map[string]time.Time // "repo:tag" -> when the upstream was asked
	down    map[string]time.Time // registry -> when it could not be asked
}

const (
	mirrorPatience = 5 * time.Second
	mirrorRest     = 15 * time.Second
)

func newMirrors(s storage, o Options) (*mirrors, error) {
	for i, m := range o.Mirrors {
		if m.Prefix != "" && !validName(m.Prefix) || m.Registry == "" {
			return nil, fmt.Errorf("mirror %q of %q: not a prefix and a registry: %w", m.Prefix, m.Registry, errdefs.ErrInvalidArgument)
		}
		if slices.ContainsFunc(o.Mirrors[:i], func(other Mirror) bool { return other.Prefix == m.Prefix }) {
			return nil, fmt.Errorf("two mirrors below %q: %w", m.Prefix, errdefs.ErrInvalidArgument)
		}
	}
	list := slices.Clone(o.Mirrors)
	// The longest prefix speaks for a repository.
	slices.SortFunc(list, func(a, b Mirror) int { return len(b.Prefix) - len(a.Prefix) })
	return &mirrors{storage: s, list: list, open: o.OpenUpstream, temp: o.temp(),
		patience: mirrorPatience, rest: mirrorRest, checked: map[string]time.Time{}, down: map[string]time.Time{}}, nil
}

// of returns the mirror that a repository belongs to, and its name there.
func (s *mirrors) of(repo string) (m Mirror, name string, ok bool) {
	for _, m := range s.list {
		if m.Prefix == "" {
			return m, repo, true
		}
		if name, ok := strings.CutPrefix(repo, m.Prefix+"/"); ok {
			return m, name, true
		}
	}
	return Mirror{}, "", false
}

// local returns the name here of a repository of the registry ns.
func (s *mirrors) local(ns, repo string) (name string, ok bool) {
	for _, m := range s.list {
		if m.Registry != ns {
			continue
		}
		return strings.TrimPrefix(m.Prefix+"/"+repo, "/"), true
	}
	return "", false
}

// namespace applies containerd's ?ns=, which distribution-spec 1.2 drafts: the request is
// about a repository of that registry. One that is not mirrored is not here.
func (g *Registry) namespace(w http.ResponseWriter, r *http.Request, rt *route) error {
	s, ok := g.store.(*mirrors)
	if !ok || rt.repo == "" || r.URL.RawQuery == "" {
		return nil
	}
	ns := r.URL.Query().Get("ns")
	if ns == "" {
		return nil
	}
	name, ok := s.local(ns, rt.repo)
	if !ok || !validName(name) {
		return &apiError{http.StatusNotFound, codeNameUnknown, "no mirror of that registry", map[string]string{"ns": ns}}
	}
	rt.repo = name
	w.Header().Set("OCI-Namespace", ns)
	return nil
}

// GetManifest implements manifests.
func (s *mirrors) GetManifest(ctx context.Context, repo, ref string) (record, error) {
	m, name, ok := s.of(repo)
	if !ok {
		return s.storage.GetManifest(ctx, repo, ref)
	}
	have, err := s.storage.GetManifest(ctx, repo, ref)
	if ignoreNotFound(err) != nil || err == nil && s.fresh(m, repo, ref) {
		return have, err
	}
	if have.digest == "" || !s.resting(m) {
		r, err := s.ask(ctx, m, repo, name, ref, have)
		if err == nil || have.digest == "" || errdefs.IsNotFound(err) {
			return r, err
		}
		if errors.As(err, new(*keepError)) {
			have.warning = "stale: what " + m.Registry + " has now cannot be kept"
			return have, nil
		}
	}
	have.warning = "stale: " + m.Registry + " cannot be asked now"
	return have, nil
}

// ask gets a manifest from the upstream. Many who ask for one thing at once wait for one
// answer, which no client can call off.
func (s *mirrors) ask(ctx context.Context, m Mirror, repo, name, ref string, have record) (record, error) {
	v, err, _ := s.manifests.Do(repo+" "+ref, func() (any, error) {
		patience := time.Minute
		if have.digest != "" {
			patience = s.patience
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		return s.fetchManifest(ctx, m, repo, name, ref, have)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if !errdefs.IsNotFound(err) && !errors.As(err, new(*keepError)) {
			s.down[m.Registry] = time.Now()
		}
		return record{}, err
	}
	if len(s.checked) >= maxKnown {
		s.checked = map[string]time.Time{}
	}
	s.checked[repo+":"+ref] = time.Now()
	return v.(record), nil
}

// resting reports whether the upstream is left alone for a while.
func (s *mirrors) resting(m Mirror) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.down[m.Registry]
	return ok && time.Since(at) < s.rest
}

// fresh reports whether a copy is as good as the upstream's answer.
func (s *mirrors) fresh(m Mirror, repo, ref string) bool {
	if strings.Contains(ref, ":") || m.TTL < 0 {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ttl := time.Duration(m.TTL)
	if ttl == 0 {
		ttl = defaultTTL
	}
	at, ok := s.checked[repo+":"+ref]
	return ok && time.Since(at) < ttl
}

// fetchManifest asks the upstream, and keeps what it has.
func (s *mirrors) fetchManifest(ctx context.Context, m Mirror, repo, name, ref string, have record) (record, error) {
	up, err := s.open(m.Registry, name)
	if err != nil {
		return record{}, err
	}
	d, err := up.Resolve(ctx, ref)
	if err != nil {
		return record{}, upstreamError(err)
	}
	if d.Digest == have.digest {
		return have, nil
	}
	if d.Size > maxManifest {
		return record{}, fmt.Errorf("%s has a manifest of %d bytes: %w", m.Registry, d.Size, errdefs.ErrNotFound)
	}
	body, err := up.Fetch(ctx, d)
	if err != nil {
		return record{}, upstreamError(err)
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err != nil {
		return record{}, upstreamError(err)
	}
	parsed, err := parseManifest(b, d.MediaType)
	if err != nil {
		return record{}, fmt.Errorf("%s sent something else than a manifest: %w: %w", m.Registry, errdefs.ErrUnavailable, err)
	}
	// What it refers to comes when somebody asks for it.
	parsed.digest, parsed.references = d.Digest, nil
	var tags []string
	if !strings.Contains(ref, ":") {
		tags = []string{ref}
	}
	if err := s.storage.PutManifest(ctx, repo, parsed, tags); err != nil {
		return record{}, &keepError{err}
	}
	return record{digest: d.Digest, mediaType: parsed.mediaType, body: b}, nil
}

// keepError is a failure to store what the upstream gave.
type keepError struct{ err error }

func (e *keepError) Error() string { return "keeping what was mirrored: " + e.err.Error() }
func (e *keepError) Unwrap() error { return e.err }

// upstreamError hides why an upstream does not let us in: to a client it has nothing.
func upstreamError(err error) error {
	if errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) {
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	return err
}

// ConfirmManifest implements manifests. One that is not here will be fetched next.
func (s *mirrors) ConfirmManifest(ctx context.Context, repo string, d digest.Digest) error {
	err := s.storage.ConfirmManifest(ctx, repo, d)
	if _, _, ok := s.of(repo); ok {
		return ignoreNotFound(err)
	}
	return err
}

// Tags implements tags: the upstream's, or those that were fetched while it is away.
func (s *mirrors) Tags(ctx context.Context, repo, last string, n int) ([]string, bool, error) {
	m, name, ok := s.of(repo)
	if !ok {
		return s.storage.Tags(ctx, repo, last, n)
	}
	tags, err := s.upstreamTags(ctx, m, name)
	if err != nil {
		if names, more, err := s.storage.Tags(ctx, repo, last, n); err == nil {
			return names, more, nil
		}
		return nil, false, err
	}
	slices.Sort(tags)
	from, found := 0, false
	if last != "" {
		if from, found = slices.BinarySearch(tags, last); found {
			from++
		}
	}
	to := min(from+n, len(tags))
	return append([]string{}, tags[from:to]...), n > 0 && to < len(tags), nil
}

func (s *mirrors) upstreamTags(ctx context.Context, m Mirror, name string) ([]string, error) {
	if s.resting(m) {
		return nil, fmt.Errorf("%s could not be asked a moment ago: %w", m.Registry, errdefs.ErrUnavailable)
	}
	up, err := s.open(m.Registry, name)
	if err != nil {
		return nil, err
	}
	tags, err := up.Tags(ctx)
	return tags, upstreamError(err)
}

// errMirrored refuses changes.
var errMirrored error = &apiError{http.StatusMethodNotAllowed, codeUnsupported, "this repository is a mirror", nil}

func (s *mirrors) refuse(repo string) error {
	if _, _, ok := s.of(repo); ok {
		return errMirrored
	}
	return nil
}

// CreateUpload implements uploads.
func (s *mirrors) CreateUpload(ctx context.Context, repo string, a digest.Algorithm) (string, error) {
	if err := s.refuse(repo); err != nil {
		return "", err
	}
	return s.storage.CreateUpload(ctx, repo, a)
}

// UploadSize implements uploads.
func (s *mirrors) UploadSize(ctx context.Context, repo, id string) (int64, error) {
	if err := s.refuse(repo); err != nil {
		return 0, err
	}
	return s.storage.UploadSize(ctx, repo, id)
}

// OpenUpload implements uploads. That nobody was given an ID does not keep clients from making one up.
func (s *mirrors) OpenUpload(ctx context.Context, repo, id string, final digest.Digest) (upload, error) {
	if err := s.refuse(repo); err != nil {
		return nil, err
	}
	return s.storage.OpenUpload(ctx, repo, id, final)
}

// MountBlob implements blobs.
func (s *mirrors) MountBlob(ctx context.Context, repo, from string, d digest.Digest) error {
	if err := s.refuse(repo); err != nil {
		return err
	}
	return s.storage.MountBlob(ctx, repo, from, d)
}

// PutManifest implements manifests.
func (s *mirrors) PutManifest(ctx context.Context, repo string, m manifest, tags []string) error {
	if err := s.refuse(repo); err != nil {
		return err
	}
	return s.storage.PutManifest(ctx, repo, m, tags)
}

// BlobURL implements redirector.
func (s *mirrors) BlobURL(ctx context.Context, repo string, d digest.Digest) (string, error) {
	r, ok := s.storage.(redirector)
	if !ok {
		return "", nil
	}
	u, err := r.BlobURL(ctx, repo, d)
	if _, _, ok := s.of(repo); ok {
		err = ignoreNotFound(err)
	}
	return u, err
}
