package buildkit

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/buildid"
	"github.com/moby/buildkit/client/llb"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestPolicy: rules that come with a build, and a client that decides itself.
func TestPolicy(t *testing.T) {
	f := newFixture(t)
	cc := f.connect(t)
	control, bridge := controlapi.NewControlClient(cc), gwpb.NewLLBBridgeClient(cc)
	var mu sync.Mutex
	var fetched []string
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fetched = append(fetched, r.URL.Path)
		w.Write([]byte(r.URL.Path))
	}))
	defer web.Close()
	build := func(req *controlapi.SolveRequest, path string) (string, error) {
		t.Helper()
		def, err := llb.HTTP(web.URL + path).Marshal(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		fetched = nil
		mu.Unlock()
		req.Definition = def.ToPB()
		_, err = control.Solve(t.Context(), req)
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(fetched, " "), err
	}
	rules := func(action spb.PolicyAction, from, to string) *spb.Policy {
		r := &spb.Rule{Action: action, Selector: &spb.Selector{Identifier: web.URL + from}}
		if to != "" {
			r.Updates = &spb.Update{Identifier: web.URL + to}
		}
		return &spb.Policy{Version: 1, Rules: []*spb.Rule{r}}
	}

	if got, err := build(&controlapi.SolveRequest{Ref: "denied", SourcePolicy: rules(spb.PolicyAction_DENY, "/*", "")}, "/a"); err == nil || !strings.Contains(err.Error(), "denied by policy") || got != "" {
		t.Errorf("rules that deny: %q, %v", got, err)
	}
	if got, err := build(&controlapi.SolveRequest{Ref: "converted", SourcePolicy: rules(spb.PolicyAction_CONVERT, "/b", "/c")}, "/b"); err != nil || got != "/c" {
		t.Errorf("rules that convert: %q, %v", got, err)
	}
	if _, err := build(&controlapi.SolveRequest{Ref: "nonsense", SourcePolicy: &spb.Policy{Rules: []*spb.Rule{nil}}}, "/a"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("rules that are none: %v", err)
	}

	answers := map[string]func(*policysession.CheckPolicyRequest) *policysession.CheckPolicyResponse{}
	decide := func(action spb.PolicyAction, to string) *policysession.CheckPolicyResponse {
		d := &policysession.DecisionResponse{Action: action}
		if to != "" {
			d.Update = &pb.SourceOp{Identifier: web.URL + to}
		}
		if action == spb.PolicyAction_DENY {
			d.DenyMessages = []*policysession.DenyMessage{{Message: "not on a Monday"}}
		}
		return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Decision{Decision: d}}
	}
	back := func(identifier string) *policysession.CheckPolicyResponse {
		return &policysession.CheckPolicyResponse{Result: &policysession.CheckPolicyResponse_Request{Request: &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: identifier}}}}
	}
	id, detach := f.attach(t, policysession.NewPolicyProvider(func(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.DecisionResponse, *gwpb.ResolveSourceMetaRequest, error) {
		a := answers[strings.TrimPrefix(req.Source.Source.Identifier, web.URL)](req)
		return a.GetDecision(), a.GetRequest(), nil
	}))
	defer detach()
	type asked = *policysession.CheckPolicyRequest
	answers["/d"] = func(asked) *policysession.CheckPolicyResponse { return decide(spb.PolicyAction_DENY, "") }
	answers["/e"] = func(asked) *policysession.CheckPolicyResponse { return decide(spb.PolicyAction_CONVERT, "/f") }
	answers["/f"] = func(asked) *policysession.CheckPolicyResponse { return decide(spb.PolicyAction_ALLOW, "") }
	answers["/sum"] = func(q asked) *policysession.CheckPolicyResponse {
		switch q.Source.HTTP.GetChecksum() {
		case "":
			return back(q.Source.Source.Identifier)
		case digest.FromString("/sum").String():
			return decide(spb.PolicyAction_ALLOW, "")
		}
		return decide(spb.PolicyAction_DENY, "")
	}
	answers["/round"] = func(asked) *policysession.CheckPolicyResponse { return decide(spb.PolicyAction_CONVERT, "/round") }
	answers["/again"] = func(q asked) *policysession.CheckPolicyResponse { return back(q.Source.Source.Identifier) }
	answers["/other"] = func(asked) *policysession.CheckPolicyResponse { return back(web.URL + "/secret") }
	answers["/nothing"] = func(asked) *policysession.CheckPolicyResponse { return back("") }
	for path, want := range map[string]struct{ fetched, fails string }{
		"/d": {"", "not allowed by policy"}, "/e": {"/f", ""}, "/sum": {"/sum", ""}, "/round": {"", "did not decide"},
		"/again": {"/again", "did not decide"}, "/other": {"", "asks about"}, "/nothing": {"", "asks about"},
	} {
		got, err := build(&controlapi.SolveRequest{Ref: "session" + path, Session: id, SourcePolicySession: id}, path)
		if (err == nil) != (want.fails == "") || err != nil && !strings.Contains(err.Error(), want.fails) || got != want.fetched {
			t.Errorf("%s: fetched %q, %v", path, got, err)
		}
		if path == "/d" {
			if m := policysession.DenyMessages(grpcerrors.FromGRPC(err)); len(m) != 1 || m[0].Message != "not on a Monday" {
				t.Errorf("why it was denied: %v", m)
			}
		}
	}
	if got, err := build(&controlapi.SolveRequest{Ref: "both", Session: id, SourcePolicySession: id, SourcePolicy: rules(spb.PolicyAction_DENY, "/f", "")}, "/e"); err == nil || got != "" {
		t.Errorf("what the client converts to is denied by rules: %q, %v", got, err)
	}

	// Sources are asked about beside each other: whoever decides about one may take its time.
	var together sync.WaitGroup
	together.Add(2)
	both := func(asked) *policysession.CheckPolicyResponse {
		together.Done()
		together.Wait()
		return decide(spb.PolicyAction_ALLOW, "")
	}
	answers["/one"], answers["/two"] = both, both
	two, err := llb.HTTP(web.URL + "/one").File(llb.Copy(llb.HTTP(web.URL+"/two"), "/two", "/")).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "together", Session: id, SourcePolicySession: id, Definition: two.ToPB()}); err != nil {
		t.Errorf("two sources: %v", err)
	}

	// A client that says itself what to build gives rules with its questions.
	solved := make(chan error, 1)
	go func() {
		_, err := control.Solve(t.Context(), &controlapi.SolveRequest{Ref: "talk", SourcePolicy: rules(spb.PolicyAction_CONVERT, "/b", "/c")})
		solved <- err
	}()
	ctx = buildid.AppendToOutgoingContext(t.Context(), "talk")
	meta, err := bridge.ResolveSourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: web.URL + "/b"}})
	if err != nil || meta.Source.Identifier != web.URL+"/c" || meta.HTTP.GetChecksum() != digest.FromString("/c").String() {
		t.Errorf("a source that rules convert: %v, %v", meta, err)
	}
	def, err := llb.HTTP(web.URL + "/x").Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deny := []*spb.Policy{rules(spb.PolicyAction_DENY, "/x", "")}
	if _, err := bridge.Solve(ctx, &gwpb.SolveRequest{Definition: def.ToPB(), SourcePolicies: deny}); err == nil {
		t.Error("the rules of a question were not looked at")
	}
	if _, err := bridge.ResolveSourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: web.URL + "/x"}, SourcePolicies: deny}); err == nil {
		t.Error("the rules of a question for a source were not looked at")
	}
	if _, err := bridge.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{}}); err != nil {
		t.Error(err)
	}
	if err := <-solved; err != nil {
		t.Error(err)
	}
}
