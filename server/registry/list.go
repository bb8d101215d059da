package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// catalogPage is the length of a page of the catalog when the client does not say.
	catalogPage = 1000
	// maxPage is the longest page of any list.
	maxPage = 100_000
	// maxReferrers is the size of a page of referrers, in bytes, that clients can be
	// expected to read: it is an index, and indexes are limited like manifests.
	maxReferrers = maxManifest - 64<<10
)

// listTags serves GET /v2/NAME/tags/list.
func (g *Registry) listTags(w http.ResponseWriter, r *http.Request, rt route) error {
	n, last, err := page(r, maxPage)
	if err != nil {
		return err
	}
	names, more, err := g.store.Tags(r.Context(), rt.repo, last, n)
	if err != nil {
		return notFoundAs(err, codeNameUnknown, "repository name not known to registry", map[string]string{"name": rt.repo})
	}
	linkNext(w, r, names, more, n)
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{rt.repo, names})
}

// listRepositories serves GET /v2/_catalog, which is Docker's: the OCI left it out.
// Who may not see all of them gets those he may pull from.
func (g *Registry) listRepositories(w http.ResponseWriter, r *http.Request, rt route) error {
	n, last, err := page(r, catalogPage)
	if err != nil {
		return err
	}
	names, more, err := g.visible(r.Context(), rt.visitor, last, n)
	if err != nil {
		return err
	}
	linkNext(w, r, names, more, n)
	return writeJSON(w, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{names})
}

// visible returns a page of the repositories that v sees.
func (g *Registry) visible(ctx context.Context, v visitor, last string, n int) (names []string, more bool, err error) {
	if v.all || n == 0 {
		return g.store.Repositories(ctx, last, n)
	}
	names = []string{}
	for {
		batch, more, err := g.store.Repositories(ctx, last, catalogPage)
		if err != nil {
			return nil, false, err
		}
		for i, name := range batch {
			if !v.sees(name) {
				continue
			}
			if names = append(names, name); len(names) == n {
				// There may be nothing for him behind it; then the next page is empty.
				return names, more || i+1 < len(batch), nil
			}
		}
		if !more {
			return names, false, nil
		}
		last = batch[len(batch)-1]
	}
}

// page returns the parameters n and last of a list.
func page(r *http.Request, length int) (n int, last string, err error) {
	q := r.URL.Query()
	n = length
	if s := q.Get("n"); s != "" {
		if n, err = strconv.Atoi(s); err != nil || n < 0 {
			return 0, "", &apiError{http.StatusBadRequest, codePageInvalid, "n is not a number of entries", map[string]string{"n": s}}
		}
	}
	return min(n, maxPage), q.Get("last"), nil
}

// linkNext adds the Link header to a page that has one behind it. Without a single name
// there is nothing to go on from.
func linkNext(w http.ResponseWriter, r *http.Request, names []string, more bool, n int) {
	if !more || len(names) == 0 {
		return
	}
	q := url.Values{"last": {names[len(names)-1]}, "n": {strconv.Itoa(n)}}
	setLink(w, r, q)
}

func setLink(w http.ResponseWriter, r *http.Request, q url.Values) {
	w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.EscapedPath(), q.Encode()))
}

// listReferrers serves GET /v2/NAME/referrers/DIGEST. It is never 404: that would tell
// clients that there is no such endpoint.
func (g *Registry) listReferrers(w http.ResponseWriter, r *http.Request, rt route) error {
	d, err := parseDigest(rt.ref)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	records := g.store.Referrers(r.Context(), rt.repo, d, q.Get("last"))
	list, next, err := referrersPage(records, q.Get("artifactType"))
	if err != nil {
		return err
	}
	if q.Get("artifactType") != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if next != "" {
		q.Set("last", next)
		setLink(w, r, q)
	}
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
	index.SchemaVersion = 2
	return writeJSON(w, ocispec.MediaTypeImageIndex, index)
}

// referrersPage returns the descriptors of records that have the artifact type, if one is
// given, until the page is full; next is the last digest of a full page.
func referrersPage(records iter.Seq2[record, error], artifactType string) (list []ocispec.Descriptor, next string, err error) {
	list = []ocispec.Descriptor{}
	size := 0
	for r, err := range records {
		if err != nil {
			return nil, "", err
		}
		desc, err := referrer(r)
		if err != nil {
			return nil, "", fmt.Errorf("reading manifest %s: %w", r.digest, err)
		}
		if artifactType != "" && desc.ArtifactType != artifactType {
			continue
		}
		b, err := json.Marshal(desc)
		if err != nil {
			return nil, "", err
		}
		if size += len(b) + 1; size > maxReferrers && len(list) > 0 {
			return list, list[len(list)-1].Digest.String(), nil
		}
		list = append(list, desc)
	}
	return list, "", nil
}
