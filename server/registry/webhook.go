package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/net/http/httpguts"
)

// Webhook is a URL that is told of changes of tags and manifests, in the form of
// distribution's notifications ("Work with notifications", the envelope), which tools read.
type Webhook struct {
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
}

// event is one change.
type event struct {
	ID        string      `json:"id"`
	Timestamp time.Time   `json:"timestamp"`
	Action    string      `json:"action"` // push or delete
	Target    eventTarget `json:"target"`
	Request   struct {
		Addr      string `json:"addr"`
		Host      string `json:"host"`
		Method    string `json:"method"`
		UserAgent string `json:"useragent"`
	} `json:"request"`
	Actor struct {
		Name string `json:"name,omitempty"`
	} `json:"actor"`
}

type eventTarget struct {
	MediaType  string `json:"mediaType,omitempty"`
	Size       int    `json:"size,omitempty"`
	Length     int    `json:"length,omitempty"` // the same; which one tools read depends on their age
	Digest     string `json:"digest,omitempty"`
	Repository string `json:"repository"`
	URL        string `json:"url,omitempty"`
	Tag        string `json:"tag,omitempty"`
}

const (
	eventsType = "application/vnd.docker.distribution.events.v2+json"
	// maxEvents is how many events wait for a URL that does not answer; older ones are lost.
	maxEvents = 10_000
	// eventBatch is how many go in one request.
	eventBatch  = 100
	hookTimeout = 10 * time.Second
	// maxHookWait is the longest time between two tries.
	maxHookWait = time.Minute
	// maxHeaderFile is the largest file of headers, in bytes.
	maxHeaderFile = 64 << 10
)

// ReadHeaders reads a file with one "Name: value" in each line, which may hold secrets that
// a command line would show.
func ReadHeaders(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxHeaderFile))
	if err != nil {
		return nil, err
	}
	headers := map[string]string{}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return nil, fmt.Errorf("%s:%d: not \"Name: value\": %w", file, n, errdefs.ErrInvalidArgument)
		}
		headers[name] = value
	}
	return headers, nil
}

// hook is the queue of a Webhook. It is in memory: what was not sent when the server ends
// or is killed is not sent.
type hook struct {
	Webhook
	shown  string // the URL without a password
	log    *slog.Logger
	client *http.Client
	first  time.Duration // wait after the first failure
	more   chan struct{} // has room for one

	mu     sync.Mutex
	events []event
	lost   int // from the front, since the last batch was taken
}

func newHooks(list []Webhook, log *slog.Logger) (hooks []*hook, err error) {
	for _, w := range list {
		u, err := url.Parse(w.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("webhook %q is not a URL: %w", w.URL, errdefs.ErrInvalidArgument)
		}
		hooks = append(hooks, &hook{Webhook: w, shown: u.Redacted(), log: log, client: newHookClient(), first: time.Second, more: make(chan struct{}, 1)})
	}
	return hooks, nil
}

// newHookClient returns a client that takes the headers nowhere else.
func newHookClient() *http.Client {
	return &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// notifyPush tells of a manifest, once for each of its tags.
func (g *Registry) notifyPush(r *http.Request, rt route, m manifest, tags []string) {
	target := eventTarget{MediaType: m.mediaType, Size: len(m.body), Digest: m.digest.String()}
	if len(tags) == 0 {
		g.notify(r, rt, "push", target)
	}
	for _, target.Tag = range tags {
		g.notify(r, rt, "push", target)
	}
}

// notifyDelete tells of a manifest or a tag.
func (g *Registry) notifyDelete(r *http.Request, rt route) {
	if strings.Contains(rt.ref, ":") {
		g.notify(r, rt, "delete", eventTarget{Digest: rt.ref})
		return
	}
	g.notify(r, rt, "delete", eventTarget{Tag: rt.ref})
}

// notify tells all hooks of a change. It does not wait.
func (g *Registry) notify(r *http.Request, rt route, action string, target eventTarget) {
	if len(g.hooks) == 0 {
		return
	}
	target.Repository, target.Length = rt.repo, target.Size
	if target.Digest != "" && len(r.Host) <= maxAudited {
		target.URL = g.door.base(r) + "/v2/" + rt.repo + "/manifests/" + target.Digest
	}
	e := event{ID: randomHex(), Timestamp: time.Now().UTC(), Action: action, Target: target}
	e.Request.Addr, e.Request.Host, e.Request.Method, e.Request.UserAgent = r.RemoteAddr, short(r.Host), r.Method, short(r.UserAgent())
	e.Actor.Name = rt.visitor.name
	// Parts of a request would keep all of it in memory.
	for _, s := range []*string{&e.Target.MediaType, &e.Target.Digest, &e.Target.Repository, &e.Target.Tag, &e.Request.Method, &e.Actor.Name} {
		*s = strings.Clone(*s)
	}
	for _, h := range g.hooks {
		h.add(e)
	}
}

func (h *hook) add(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) == maxEvents {
		h.events = slices.Delete(h.events, 0, 1)
		if h.lost++; h.lost == 1 {
			h.log.Warn("webhook does not answer: the oldest events are lost", "url", h.shown)
		}
	}
	h.events = append(h.events, e)
	select {
	case h.more <- struct{}{}:
	default:
	}
}

// run sends events in their order until ctx ends, and then once more what there is.
func (h *hook) run(ctx context.Context) {
	wait := h.first
	try := context.WithoutCancel(ctx) // a try that was broken off would have to be made again
	for {
		sent, err := h.send(try)
		switch {
		case err != nil:
			h.log.Warn("webhook failed", "url", h.shown, "error", err, "retry", wait.String())
			select {
			case <-ctx.Done():
				h.flush(try)
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, maxHookWait)
			continue
		case sent > 0:
			wait = h.first
			continue
		}
		select {
		case <-ctx.Done():
			h.flush(try)
			return
		case <-h.more:
		}
	}
}

// flush sends what there is, if it can be sent soon.
func (h *hook) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	for {
		n, err := h.send(ctx)
		if err != nil {
			h.log.Warn("webhook failed: events are lost", "url", h.shown, "error", err)
		}
		if n == 0 {
			return
		}
	}
}

// send sends the first events there are, and forgets them if they were taken.
func (h *hook) send(ctx context.Context) (int, error) {
	h.mu.Lock()
	batch := slices.Clone(h.events[:min(eventBatch, len(h.events))])
	h.lost = 0
	h.mu.Unlock()
	if len(batch) == 0 {
		return 0, nil
	}
	body, err := json.Marshal(map[string][]event{"events": batch})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", eventsType)
	for k, v := range h.Headers {
		req.Header.Set(k, v)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	if resp.StatusCode < 200 || resp.StatusCode >= 300 {
		return 0, fmt.Errorf("it answered %s", resp.Status)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = slices.Delete(h.events, 0, max(0, len(batch)-h.lost))
	return len(batch), nil
}
