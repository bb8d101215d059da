package registry

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// startUpload serves POST /v2/NAME/blobs/uploads/: with ?mount= it makes a blob of another
// repository visible here, with ?digest= the body is the whole blob, else it begins an
// upload.
func (g *Registry) startUpload(w http.ResponseWriter, r *http.Request, rt route) error {
	q := r.URL.Query()
	if s := q.Get("mount"); s != "" {
		done, err := g.mount(w, r, rt, s, q.Get("from"))
		if done || err != nil {
			return err
		}
	}
	algorithm, err := uploadAlgorithm(q.Get("digest"), q.Get("digest-algorithm"))
	if err != nil {
		return err
	}
	id, err := g.store.CreateUpload(r.Context(), rt.repo, algorithm)
	if err != nil {
		return err
	}
	rt.ref = id
	if q.Get("digest") == "" || q.Get("mount") != "" {
		setUpload(w, rt, 0)
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return g.finishUpload(w, r, rt)
}

// uploadAlgorithm returns the algorithm an upload will probably be verified with.
func uploadAlgorithm(dgst, name string) (digest.Algorithm, error) {
	if dgst != "" {
		d, err := parseDigest(dgst)
		if err != nil {
			return "", err
		}
		return d.Algorithm(), nil
	}
	switch name {
	case "", "sha256":
		return digest.SHA256, nil
	case "sha512":
		return digest.SHA512, nil
	}
	return "", &apiError{http.StatusBadRequest, codeDigestInvalid, "digest-algorithm is sha256 or sha512", nil}
}

// mount answers 201 if the blob could be mounted. If not, done is false and the request
// goes on as the beginning of an upload.
func (g *Registry) mount(w http.ResponseWriter, r *http.Request, rt route, dgst, from string) (done bool, err error) {
	d, err := parseDigest(dgst)
	if err != nil {
		return false, err
	}
	if from != "" && !validName(from) {
		return false, &apiError{http.StatusBadRequest, codeNameInvalid, "invalid repository name in from", map[string]string{"name": from}}
	}
	if from != "" && rt.visitor.mayWithToken(actionPull, from) {
		return false, g.door.challenge(w, r, rt, "insufficient_scope")
	}
	if from != "" && !rt.visitor.may(actionPull, from) || from == "" && !rt.visitor.mayEverywhere(actionPull) {
		return false, nil // as if it were not there
	}
	err = g.store.MountBlob(r.Context(), rt.repo, from, d)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	created(w, "/v2/"+rt.repo+"/blobs/"+d.String(), d)
	return true, nil
}

// getUpload serves GET /v2/NAME/blobs/uploads/ID.
func (g *Registry) getUpload(w http.ResponseWriter, r *http.Request, rt route) error {
	size, err := g.store.UploadSize(r.Context(), rt.repo, rt.ref)
	if err != nil {
		return unknownUpload(err)
	}
	setUpload(w, rt, size)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// patchUpload serves PATCH /v2/NAME/blobs/uploads/ID: a chunk with Content-Range, or a
// stream without.
func (g *Registry) patchUpload(w http.ResponseWriter, r *http.Request, rt route) (err error) {
	u, err := g.store.OpenUpload(r.Context(), rt.repo, rt.ref, "")
	if err != nil {
		return unknownUpload(err)
	}
	defer u.Close()
	if err := receive(w, r, rt, u); err != nil {
		return err
	}
	setUpload(w, rt, u.Size())
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// finishUpload serves PUT /v2/NAME/blobs/uploads/ID?digest=: the body, if any, is the last
// chunk.
func (g *Registry) finishUpload(w http.ResponseWriter, r *http.Request, rt route) error {
	d, err := parseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	u, err := g.store.OpenUpload(r.Context(), rt.repo, rt.ref, d)
	if err != nil {
		return unknownUpload(err)
	}
	defer u.Close()
	if err := receive(w, r, rt, u); err != nil {
		if r.Method == http.MethodPost {
			_ = u.Cancel() // nobody knows its ID; the sweep gets what is left
		}
		return err
	}
	if err := u.Commit(r.Context(), d); err != nil {
		return unknownUpload(err)
	}
	created(w, "/v2/"+rt.repo+"/blobs/"+d.String(), d)
	return nil
}

// cancelUpload serves DELETE /v2/NAME/blobs/uploads/ID.
func (g *Registry) cancelUpload(w http.ResponseWriter, r *http.Request, rt route) error {
	u, err := g.store.OpenUpload(r.Context(), rt.repo, rt.ref, "")
	if err != nil {
		return unknownUpload(err)
	}
	defer u.Close()
	if err := u.Cancel(); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// receive appends the body of r to u, if it is the next chunk.
func receive(w http.ResponseWriter, r *http.Request, rt route, u upload) error {
	if s := r.Header.Get("Content-Range"); s != "" {
		start, end, ok := parseContentRange(s)
		if !ok {
			return &apiError{http.StatusBadRequest, codeBlobUploadInvalid, "invalid Content-Range", map[string]string{"range": s}}
		}
		if start != u.Size() {
			setUpload(w, rt, u.Size())
			return &apiError{http.StatusRequestedRangeNotSatisfiable, codeBlobUploadInvalid,
				fmt.Sprintf("the next chunk starts at %d", u.Size()), nil}
		}
		if r.ContentLength >= 0 && r.ContentLength != end-start+1 {
			return errChunkLength
		}
		return receiveChunk(newBody(w, r), u, end-start+1)
	}
	_, err := u.ReadFrom(newBody(w, r))
	return err
}

var errChunkLength = &apiError{http.StatusBadRequest, codeSizeInvalid, "the length of the chunk is not that of its Content-Range", nil}

// receiveChunk appends a body that has length bytes, which one without Content-Length may turn out not
// to have. What came of them stays, as it does when a connection breaks.
func receiveChunk(body io.Reader, u upload, length int64) error {
	n, err := u.ReadFrom(io.LimitReader(body, length))
	if err != nil {
		return err
	}
	if more, _ := io.CopyN(io.Discard, body, 1); n != length || more > 0 {
		return errChunkLength
	}
	return nil
}

// parseContentRange parses "0-99", and the forms "bytes 0-99/*" and "bytes=0-99" that some
// clients send instead.
func parseContentRange(s string) (start, end int64, ok bool) {
	s = strings.TrimSpace(s)
	if rest, found := strings.CutPrefix(s, "bytes"); found && rest != "" && (rest[0] == ' ' || rest[0] == '=') {
		s, _, _ = strings.Cut(rest[1:], "/")
	}
	first, last, _ := strings.Cut(s, "-")
	start, ok1 := parseOffset(first)
	end, ok2 := parseOffset(last)
	return start, end, ok1 && ok2 && start <= end
}

func parseOffset(s string) (int64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n < 1<<62
}

// setUpload tells the client where to go on. An upload without a byte has the range "0-0",
// as distribution says it; the grammar knows no empty range.
func setUpload(w http.ResponseWriter, rt route, size int64) {
	h := w.Header()
	h.Set("Location", "/v2/"+rt.repo+"/blobs/uploads/"+rt.ref)
	h.Set("Range", "0-"+strconv.FormatInt(max(size-1, 0), 10))
	h.Set("Docker-Upload-Uuid", rt.ref)
}

func created(w http.ResponseWriter, location string, d digest.Digest) {
	h := w.Header()
	h.Set("Location", location)
	h.Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

func unknownUpload(err error) error {
	return notFoundAs(err, codeBlobUploadUnknown, "blob upload unknown to repository", nil)
}
