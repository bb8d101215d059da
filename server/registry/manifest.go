package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// maxManifest is the largest manifest that is accepted, in bytes.
const maxManifest = 4 << 20

// Manifests of less than smallManifest bytes are in memory while they come, which nobody knows how long
// it takes, and of larger ones that have come maxLargeManifests at once.
const (
	smallManifest     = 16 << 10
	maxLargeManifests = 16
)

// maxIgnored is how much of a manifest that is too large is read before the answer, in bytes.
const maxIgnored = 16 << 20

// maxTagParameters is how many ?tag= one PUT may have.
const maxTagParameters = 64

// getManifest serves GET and HEAD /v2/NAME/manifests/TAG-OR-DIGEST.
func (g *Registry) getManifest(w http.ResponseWriter, r *http.Request, rt route) error {
	if strings.Contains(rt.ref, ":") {
		if _, err := parseDigest(rt.ref); err != nil {
			return err
		}
	} else if !validTag(rt.ref) {
		return &apiError{http.StatusNotFound, codeManifestUnknown, "manifest unknown: not a tag", nil}
	}
	if r.Method == http.MethodHead && strings.Contains(rt.ref, ":") {
		if err := g.store.ConfirmManifest(r.Context(), rt.repo, digest.Digest(rt.ref)); err != nil {
			return unknownManifest(err, rt)
		}
	}
	m, err := g.store.GetManifest(r.Context(), rt.repo, rt.ref)
	if r.Method == http.MethodHead && strings.Contains(rt.ref, ":") && (errdefs.IsDataLoss(err) || err == nil && !m.is(digest.Digest(rt.ref))) {
		err = errdefs.ErrNotFound // who hears that pushes it again, which heals it
	}
	if err != nil {
		return unknownManifest(err, rt)
	}
	h := w.Header()
	etag := `"` + string(m.digest) + `"`
	h["Content-Type"] = []string{m.mediaType}
	h["Docker-Content-Digest"] = []string{string(m.digest)}
	h["Etag"] = []string{etag}
	if m.warning != "" {
		h["Warning"] = []string{`299 - "` + m.warning + `"`}
	}
	if noneMatch(r.Header["If-None-Match"], etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h["Content-Length"] = []string{strconv.Itoa(len(m.body))}
	if r.Method == http.MethodHead {
		return nil
	}
	limitWriting(w, int64(len(m.body)))
	w.Write(m.body) // a client that does not read it has gone
	return nil
}

// putManifest serves PUT /v2/NAME/manifests/TAG-OR-DIGEST. With a digest, ?tag= may name
// tags too, as distribution-spec 1.2 drafts it.
func (g *Registry) putManifest(w http.ResponseWriter, r *http.Request, rt route) error {
	want, tags, err := putReference(r, rt)
	if err != nil {
		return err
	}
	b, release, err := g.readManifest(w, r)
	if err != nil {
		return err
	}
	defer release()
	m, err := parseManifest(b, r.Header.Get("Content-Type"))
	if err == nil {
		err = m.checkVersion()
	}
	if err != nil {
		return err
	}
	m.digest = digestOf(want.Algorithm(), b)
	if want.Encoded() != "" && m.digest != want {
		return errDigest
	}
	if m.fixed, err = g.fixedTags(r.Context(), rt.repo, tags); err != nil {
		return err
	}
	err = g.store.PutManifest(r.Context(), rt.repo, m, tags)
	if missing := (*missingError)(nil); errors.As(err, &missing) {
		var details []any
		for _, d := range missing.digests {
			details = append(details, map[string]string{"digest": d.String()})
		}
		return &apiError{http.StatusNotFound, codeManifestBlobUnknown, "a blob or manifest it refers to is unknown to the repository", details}
	}
	if err != nil {
		return err
	}
	g.notifyPush(r, rt, m, tags)
	if m.subject != "" {
		w.Header().Set("OCI-Subject", m.subject.String())
	}
	if strings.Contains(rt.ref, ":") {
		w.Header()["Oci-Tag"] = tags
	}
	created(w, "/v2/"+rt.repo+"/manifests/"+m.digest.String(), m.digest)
	return nil
}

// putReference returns the digest a manifest has to have, or "sha256:" if any will do, and
// the tags to set.
func putReference(r *http.Request, rt route) (want digest.Digest, tags []string, err error) {
	if strings.Contains(rt.ref, ":") {
		want, err = parseDigest(rt.ref)
		tags = r.URL.Query()["tag"]
	} else {
		want, tags = "sha256:", []string{rt.ref}
	}
	if err != nil {
		return "", nil, err
	}
	if len(tags) > maxTagParameters {
		return "", nil, &apiError{http.StatusBadRequest, codeManifestInvalid, "too many tags in one request", nil}
	}
	for _, tag := range tags {
		if !validTag(tag) {
			return "", nil, &apiError{http.StatusBadRequest, codeManifestInvalid, "invalid tag", map[string]string{"tag": tag}}
		}
	}
	return want, tags, nil
}

// readManifest returns the body of r. release has to be called when it is not needed any more.
func (g *Registry) readManifest(w http.ResponseWriter, r *http.Request) (b []byte, release func(), err error) {
	body := newBody(w, r)
	if r.ContentLength > maxManifest {
		return nil, nil, tooLargeManifest(body)
	}
	b, err = io.ReadAll(io.LimitReader(body, smallManifest))
	if err != nil || len(b) < smallManifest {
		return b, func() {}, err
	}
	return g.spoolManifest(r.Context(), b, body)
}

// spoolManifest is readManifest for one that begins with first, which it writes over: it is in a
// file until all of it has come, and maxLargeManifests are in memory then.
func (g *Registry) spoolManifest(ctx context.Context, first []byte, body io.Reader) (b []byte, release func(), err error) {
	f, err := os.CreateTemp(g.temp, "manifest-")
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return nil, nil, err
	}
	if _, err := f.Write(first); err != nil {
		return nil, nil, err
	}
	// A file that reads by itself would do so by a larger buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(body, maxManifest+1-smallManifest), first)
	if err != nil {
		return nil, nil, err
	}
	if n += smallManifest; n > maxManifest {
		return nil, nil, tooLargeManifest(body)
	}
	select {
	case g.largeManifests <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	release = func() { <-g.largeManifests }
	b = make([]byte, n)
	if _, err := f.ReadAt(b, 0); err != nil {
		release()
		return nil, nil, err
	}
	return b, release, nil
}

func tooLargeManifest(body io.Reader) error {
	// Many clients look at the answer when they have sent all, and find the connection closed.
	_, _ = io.CopyN(io.Discard, body, maxIgnored)
	return &apiError{http.StatusRequestEntityTooLarge, codeSizeInvalid, "manifests are at most 4 MiB", nil}
}

// deleteManifest serves DELETE /v2/NAME/manifests/TAG-OR-DIGEST: a digest goes with all
// its tags, a tag goes alone.
func (g *Registry) deleteManifest(w http.ResponseWriter, r *http.Request, rt route) error {
	if err := g.mayDelete(); err != nil {
		return err
	}
	var err error
	if strings.Contains(rt.ref, ":") {
		var d digest.Digest
		if d, err = parseDigest(rt.ref); err != nil {
			return err
		}
		if err = g.mayRemove(r.Context(), rt.repo, rt.ref, true); err == nil {
			err = g.store.RemoveManifest(r.Context(), rt.repo, d)
		}
	} else if !validTag(rt.ref) {
		return &apiError{http.StatusNotFound, codeManifestUnknown, "manifest unknown: not a tag", nil}
	} else if err = g.mayRemove(r.Context(), rt.repo, rt.ref, false); err == nil {
		err = g.store.RemoveTag(r.Context(), rt.repo, rt.ref, "")
	}
	if err != nil {
		return unknownManifest(err, rt)
	}
	g.notifyDelete(r, rt)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func unknownManifest(err error, rt route) error {
	return notFoundAs(err, codeManifestUnknown, "manifest unknown", map[string]string{"reference": rt.ref})
}
