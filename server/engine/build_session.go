package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	buildtypes "github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/jsonstream"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/server/engine/buildkit"
)

// What docker before 23 gives as the place of a context with version=2 of POST /build: the session of the
// request, or the body of another one, whose buildid is that of this one behind a prefix.
const (
	sessionContext  = "client-session"
	uploadedContext = "upload-request"
)

// buildInSession answers POST /build with version=2: the progress is BuildKit's, in messages of JSON.
func (s *Server) buildInSession(w http.ResponseWriter, r *request) error {
	if id, ok := strings.CutPrefix(r.param("buildid"), uploadedContext+":"); ok {
		return s.uploads.give(r.Context(), id, r.Body)
	}
	o, err := buildOptions(r)
	if err != nil {
		return err
	}
	exports, err := sessionBuildOptions(r, &o)
	if err != nil {
		return err
	}
	bk, err := s.buildKit()
	if err != nil {
		return err
	}
	ctx, end := s.cancellable(w, r)
	defer end()
	if id := r.param("buildid"); id != "" && r.param("remote") == uploadedContext {
		body, done, err := s.uploads.take(ctx, id)
		if err != nil {
			return err
		}
		defer done()
		o.ContextTar = body
	}
	p := &progressWriter{w: newFlusher(w)}
	send := func(id string, aux any) error {
		return p.send(struct {
			ID  string `json:"id"`
			Aux any    `json:"aux"`
		}{id, aux})
	}
	quiet := r.flag("q")
	var unsaid [][]byte // what a quiet build tells only if it fails
	res, err := bk.Build(ctx, r.param("session"), o, exports, func(b []byte) error {
		if quiet {
			unsaid = append(unsaid, b)
			return nil
		}
		return send("moby.buildkit.trace", b)
	})
	if err != nil {
		for _, b := range unsaid {
			send("moby.buildkit.trace", b)
		}
		// Not with the code of the step, which docker would end with: BuildKit's builds fail with 1.
		return p.send(failed{ErrorDetail: &jsonstream.Error{Message: message(err)}, Error: message(err)})
	}
	if res.Config == "" {
		return nil
	}
	if quiet {
		return p.send(streamText(res.Config.String() + "\n"))
	}
	return send("moby.image.id", buildtypes.Result{ID: res.Config.String()})
}

// sessionBuildOptions reads what is only there with version=2.
func sessionBuildOptions(r *request, o *build.Options) ([]buildkit.Export, error) {
	var exports []buildkit.Export
	if text := r.param("outputs"); text != "" {
		if err := json.Unmarshal([]byte(text), &exports); err != nil {
			return nil, invalid("error reading outputs: %s", err)
		}
	}
	var from []string
	if text := r.param("cachefrom"); text != "" {
		if err := json.Unmarshal([]byte(text), &from); err != nil {
			return nil, invalid("error reading cache-from: %s", err)
		}
	}
	for _, ref := range from {
		o.CacheFrom = append(o.CacheFrom, build.CacheRef{Type: "registry", Args: map[string]string{"ref": ref}})
	}
	if build.Yes(o.Args["BUILDKIT_INLINE_CACHE"]) {
		o.CacheTo = append(o.CacheTo, build.CacheRef{Type: "inline"})
	}
	return exports, nil
}

// uploads are contexts that come with a request of their own. Either request may be the first.
type uploads struct {
	mu  sync.Mutex
	all map[string]*contextUpload // by the ID of the build
}

type contextUpload struct {
	body chan io.Reader
	done chan struct{} // the build has read what it wants
	once sync.Once
}

// uploadComes is how long one request waits for the other.
const uploadComes = 5 * time.Second

func (u *uploads) get(id string) *contextUpload {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.all == nil {
		u.all = map[string]*contextUpload{}
	}
	if u.all[id] == nil {
		u.all[id] = &contextUpload{body: make(chan io.Reader), done: make(chan struct{})}
	}
	return u.all[id]
}

func (u *uploads) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.all, id)
}

// give hands body to the build id and waits until it is read.
func (u *uploads) give(ctx context.Context, id string, body io.Reader) error {
	up := u.get(id)
	select {
	case up.body <- body:
	case <-time.After(uploadComes):
		u.forget(id)
		return invalid("no build %s waits for a context", id)
	case <-ctx.Done():
		u.forget(id)
		return ctx.Err()
	}
	select {
	case <-up.done:
	case <-ctx.Done():
	}
	return nil
}

// take waits for the body of the build id. done tells that nobody reads it any more.
func (u *uploads) take(ctx context.Context, id string) (body io.Reader, done func(), err error) {
	up := u.get(id)
	defer u.forget(id)
	select {
	case body := <-up.body:
		return body, func() { up.once.Do(func() { close(up.done) }) }, nil
	case <-time.After(uploadComes):
		return nil, nil, fmt.Errorf("the context of build %s did not come", id)
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}
