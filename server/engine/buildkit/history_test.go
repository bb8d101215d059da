package buildkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// past asks for builds.
func past(t *testing.T, c *client.Client, req *controlapi.BuildHistoryRequest) (list []*controlapi.BuildHistoryEvent) {
	t.Helper()
	req.EarlyExit = true
	stream, err := c.ControlClient().ListenBuildHistory(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
}

func refs(list []*controlapi.BuildHistoryEvent) (refs []string) {
	for _, e := range list {
		refs = append(refs, e.Record.Ref)
	}
	return refs
}

// TestHistory: what a build was, how it ended and what it told can be asked later, from another server too.
func TestHistory(t *testing.T) {
	f := newFixture(t)
	c := f.client(t)
	good := oneFile(t, []byte("x"))
	if _, err := c.Solve(t.Context(), good, client.SolveOpt{Ref: "good", Exports: []client.ExportEntry{{Type: "image", Attrs: map[string]string{"name": "kept:1"}}}}, nil); err != nil {
		t.Fatal(err)
	}
	bad, err := llb.Scratch().File(llb.Rm("missing"), llb.WithCustomName("take it away")).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, failure := c.Solve(t.Context(), bad, client.SolveOpt{Ref: "../bad"}, nil)
	if failure == nil {
		t.Fatal("it went well")
	}
	if _, err := c.Solve(t.Context(), good, client.SolveOpt{Ref: "hidden", Internal: true}, nil); err != nil {
		t.Fatal(err)
	}

	f.Server, err = New(f.Options)
	if err != nil {
		t.Fatal(err)
	}
	c = f.client(t)
	all := past(t, c, &controlapi.BuildHistoryRequest{})
	if got := refs(all); !slices.Equal(got, []string{"../bad", "good"}) {
		t.Fatalf("builds: %q", got)
	}
	last, first := all[0].Record, all[1].Record
	if first.NumTotalSteps == 0 || first.NumCompletedSteps != first.NumTotalSteps || first.Error != nil || len(first.Exporters) != 1 || first.Result.Results[0] == nil {
		t.Errorf("the one that went well: %v", first)
	}
	if grpcerrors.Code(failure) != codes.Unknown || strings.Contains(failure.Error(), "NotFound") {
		t.Errorf("a step that fails: %v", failure)
	}
	if last.Error.GetMessage() != failure.Error() && !strings.Contains(failure.Error(), last.Error.GetMessage()) || last.CompletedAt.AsTime().Before(last.CreatedAt.AsTime()) {
		t.Errorf("the one that failed: %v, where the client got %v", last, failure)
	}
	store := proxy.NewContentStore(c.ContentClient())
	for _, d := range []*controlapi.Descriptor{first.Logs, last.Logs, last.ExternalError, first.Result.Results[0]} {
		b, err := containerd.ReadBlob(t.Context(), store, ocispec.Descriptor{Digest: digest.Digest(d.Digest), Size: d.Size})
		if err != nil || digest.FromBytes(b).String() != d.Digest {
			t.Errorf("%v: %d bytes, %v", d, len(b), err)
		}
	}

	told, err := c.ControlClient().Status(t.Context(), &controlapi.StatusRequest{Ref: "../bad"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := told.Recv()
	if err != nil || len(r.Vertexes) != 2 || r.Vertexes[0].Name != "take it away" || r.Vertexes[1].Error == "" {
		t.Errorf("it told %v, %v", r, err)
	}

	for filter, want := range map[string]string{
		"status==error": "../bad", "status==completed": "good", "ref~=oo,status!=error": "good", "startedAt<1h": "", "startedAt>1h,ref==good": "good", "duration<=1h,status==error": "../bad",
	} {
		if got := strings.Join(refs(past(t, c, &controlapi.BuildHistoryRequest{Filter: []string{filter}})), " "); got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
	if got := refs(past(t, c, &controlapi.BuildHistoryRequest{Limit: 1})); !slices.Equal(got, []string{"../bad"}) {
		t.Errorf("one: %q", got)
	}

	update := func(req *controlapi.UpdateBuildHistoryRequest) error {
		_, err := c.ControlClient().UpdateBuildHistory(t.Context(), req)
		return err
	}
	if err := update(&controlapi.UpdateBuildHistoryRequest{Ref: "good", Pinned: true}); err != nil {
		t.Error(err)
	}
	if got := past(t, c, &controlapi.BuildHistoryRequest{Ref: "good"}); len(got) != 1 || !got[0].Record.Pinned {
		t.Errorf("a pinned one: %v", got)
	}
	if err := update(&controlapi.UpdateBuildHistoryRequest{Ref: "good", Finalize: true}); err != nil {
		t.Error(err)
	}
	if err := update(&controlapi.UpdateBuildHistoryRequest{Ref: "../bad", Delete: true}); err != nil {
		t.Error(err)
	}
	if err := update(&controlapi.UpdateBuildHistoryRequest{Ref: "../bad", Delete: true}); grpcerrors.Code(err) != codes.NotFound {
		t.Errorf("removed twice: %v", err)
	}
	if got := refs(past(t, c, &controlapi.BuildHistoryRequest{})); !slices.Equal(got, []string{"good"}) {
		t.Errorf("what is left: %q", got)
	}
	if err := update(&controlapi.UpdateBuildHistoryRequest{Ref: "good", Delete: true}); err != nil {
		t.Error(err)
	}
	if err := store.Walk(t.Context(), func(i containerd.Info) error { return fmt.Errorf("blob %v", i) }); err != nil {
		t.Error(err)
	}
}

// TestHistoryListener: who listens is told of builds that begin, end and are forgotten.
func TestHistoryListener(t *testing.T) {
	c := newFixture(t).client(t)
	stream, err := c.ControlClient().ListenBuildHistory(t.Context(), &controlapi.BuildHistoryRequest{Ref: "it"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // it listens
		t.Fatal(err)
	}
	for _, ref := range []string{"other", "it"} {
		if _, err := c.Solve(t.Context(), oneFile(t, []byte("x")), client.SolveOpt{Ref: ref}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.ControlClient().UpdateBuildHistory(t.Context(), &controlapi.UpdateBuildHistoryRequest{Ref: "it", Delete: true}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []controlapi.BuildHistoryEventType{controlapi.BuildHistoryEventType_STARTED, controlapi.BuildHistoryEventType_COMPLETE, controlapi.BuildHistoryEventType_DELETED} {
		e, err := stream.Recv()
		if err != nil || e.Type != want || e.Record.Ref != "it" {
			t.Errorf("got %v, %v, want %v", e, err, want)
		}
	}
}

// A headStream does something once the head of the answer is sent, and takes one event.
type headStream struct {
	controlapi.Control_ListenBuildHistoryServer
	ctx  context.Context
	head func()
	sent func(*controlapi.BuildHistoryEvent)
}

func (s headStream) Context() context.Context { return s.ctx }

func (s headStream) SendHeader(metadata.MD) error {
	s.head()
	return nil
}

func (s headStream) Send(e *controlapi.BuildHistoryEvent) error {
	s.sent(e)
	return nil
}

// TestHistoryHead: who has the head of the answer is told of all that comes then.
func TestHistoryHead(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got := ""
	f.ListenBuildHistory(&controlapi.BuildHistoryRequest{}, headStream{ctx: ctx, head: func() {
		f.history.mu.Lock()
		defer f.history.mu.Unlock()
		f.history.tell(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_DELETED, Record: &controlapi.BuildHistoryRecord{Ref: "it"}})
	}, sent: func(e *controlapi.BuildHistoryEvent) {
		got = e.Record.Ref
		cancel()
	}})
	if got != "it" {
		t.Error("an event is lost")
	}
}

// TestRecordsLimit: the oldest go, but not pinned ones; what a crash left goes too.
func TestRecordsLimit(t *testing.T) {
	r := records{filepath.Join(t.TempDir(), "a", "history")}
	if all, err := r.all(); err != nil || len(all) != 0 {
		t.Fatalf("of nothing: %v, %v", all, err)
	}
	begin := time.Now()
	save := func(i int) {
		t.Helper()
		at := timestamppb.New(begin.Add(time.Duration(i) * time.Second))
		rec := &controlapi.BuildHistoryRecord{Ref: fmt.Sprint(i), CreatedAt: at, CompletedAt: at, Pinned: i == 0}
		if err := r.save(rec, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	save(0)
	long := time.Now().Add(-2 * time.Hour)
	for _, name := range []string{".new-x", "half"} {
		dir := filepath.Join(r.dir, name)
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "record"), make([]byte, 10), 0o600), os.Chtimes(dir, long, long)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxRecords + moreRecords {
		save(i + 1)
	}
	all, err := r.all()
	if err != nil || len(all) > maxRecords+moreRecords || len(all) < maxRecords {
		t.Fatalf("%d records, %v", len(all), err)
	}
	if all[0].Ref != fmt.Sprint(maxRecords+moreRecords) || all[len(all)-1].Ref != "0" {
		t.Errorf("from %s to %s", all[0].Ref, all[len(all)-1].Ref)
	}
	if names, err := os.ReadDir(r.dir); err != nil || len(names) != len(all) {
		t.Errorf("%d directories, %v", len(names), err)
	}
}

// TestKeptLogs: of what steps print the last is kept, whoever has seen the rest.
func TestKeptLogs(t *testing.T) {
	var f feed
	f.init()
	for i := range 40 {
		f.log(&controlapi.VertexLog{Msg: bytes.Repeat([]byte{byte(i)}, 100<<10)})
	}
	late, leave := f.join()
	defer leave()
	size := 0
	for batch, _ := f.take(late); batch != nil; batch, _ = f.take(late) {
		for _, l := range batch.Logs {
			size += len(l.Msg)
		}
	}
	if size > maxKept || size < maxKept-200<<10 {
		t.Errorf("%d bytes are kept", size)
	}
}

func FuzzReadStatus(f *testing.F) {
	b, err := appendStatus(nil, &controlapi.StatusResponse{Vertexes: []*controlapi.Vertex{{Digest: "x"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(_ *testing.T, data []byte) {
		_ = readStatus(data, func(*controlapi.StatusResponse) error { return nil })
	})
}

func FuzzHistoryFilter(f *testing.F) {
	f.Add("startedAt>=24h,status==error", "ref")
	f.Fuzz(func(_ *testing.T, text, ref string) {
		if match, err := historyFilter([]string{text}); err == nil {
			match(&controlapi.BuildHistoryRecord{Ref: ref})
		}
	})
}
