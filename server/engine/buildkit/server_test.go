package buildkit

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/buildid"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/sshforward"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/crypto/ssh/agent"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/dockerfile"
	"github.com/teu-dev/teu/registry"
)

// A fixture is a server with a store of its own, whose builds run no commands unless they have an executor.
type fixture struct {
	*Server
	store    *cache.Store
	executor op.Executor
	devices  []string // directories
	served   sync.WaitGroup
	ask      func(context.Context, string) (registry.Credential, error)
}

// TestDevices: clients see the devices that a build may ask for.
func TestDevices(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	f.devices = []string{dir, filepath.Join(dir, "missing")}
	const text = `{"cdiVersion":"0.6.0","kind":"vendor.com/gpu","annotations":{"org.mobyproject.buildkit.device.autoallow":"true"},
		"devices":[{"name":"0","containerEdits":{"env":["A=b"]}},{"name":"1","containerEdits":{"env":["A=c"]},"annotations":{"org.mobyproject.buildkit.device.autoallow":"false"}}]}`
	if err := os.WriteFile(filepath.Join(dir, "v.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	list, err := f.client(t).ListWorkers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	devices := list[0].CDIDevices
	if len(devices) != 2 || devices[0].Name != "vendor.com/gpu=0" || !devices[0].AutoAllow || devices[1].Name != "vendor.com/gpu=1" || devices[1].AutoAllow {
		t.Errorf("got %+v", devices)
	}
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	store, err := cache.Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{store: store}
	t.Cleanup(f.served.Wait) // what the server still writes when its clients have gone is in those directories
	f.Server, err = New(Options{
		Builder: func(ask func(context.Context, string) (registry.Credential, error)) (*build.Builder, error) {
			f.ask = ask
			return &build.Builder{Store: store, Registry: registry.New(registry.Options{}), Executor: f.executor, CDIDirs: f.devices}, nil
		},
		Gateway: func(context.Context) (netip.Addr, error) { return netip.MustParseAddr("172.30.0.1"), nil },
		Root:    store.Root(),
		Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// connect returns a connection to the server, as POST /grpc makes one.
func (f *fixture) connect(t *testing.T) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:server", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			here, there := net.Pipe()
			f.served.Go(func() { f.Serve(context.Background(), there) })
			return here, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// attach lets the server use a session with services, as POST /session does. It returns its ID.
func (f *fixture) attach(t *testing.T, services ...session.Attachable) (id string, detach func()) {
	t.Helper()
	s, err := session.NewSession(t.Context(), "shared")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range services {
		s.Allow(a)
	}
	ended := make(chan struct{})
	go s.Run(context.WithoutCancel(t.Context()), func(_ context.Context, _ string, header map[string][]string) (net.Conn, error) {
		here, there := net.Pipe()
		go func() {
			defer close(ended)
			f.Attach(context.Background(), there, header)
		}()
		return here, nil
	})
	if _, err := f.sessions.Get(t.Context(), s.ID(), false); err != nil {
		t.Fatal(err)
	}
	return s.ID(), func() { s.Close(); <-ended }
}

// service is a session.Attachable.
type service func(*grpc.Server)

func (s service) Register(g *grpc.Server) { s(g) }

type offers struct {
	secrets.UnimplementedSecretsServer
	auth.UnimplementedAuthServer
	sshforward.UnimplementedSSHServer
	keys agent.Agent
}

func (o *offers) GetSecret(_ context.Context, r *secrets.GetSecretRequest) (*secrets.GetSecretResponse, error) {
	if r.ID != "token" {
		return nil, status.Error(codes.NotFound, "no such secret")
	}
	return &secrets.GetSecretResponse{Data: []byte("hush")}, nil
}

func (o *offers) Credentials(_ context.Context, r *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	switch r.Host {
	case "registry-1.docker.io":
		return &auth.CredentialsResponse{Username: "hub", Secret: "password"}, nil
	case "token.example":
		return &auth.CredentialsResponse{Secret: "identity"}, nil
	}
	return &auth.CredentialsResponse{}, nil
}

func (o *offers) CheckAgent(_ context.Context, r *sshforward.CheckAgentRequest) (*sshforward.CheckAgentResponse, error) {
	if r.ID != "default" {
		return nil, status.Error(codes.NotFound, "no such agent")
	}
	return &sshforward.CheckAgentResponse{}, nil
}

func (o *offers) ForwardAgent(stream sshforward.SSH_ForwardAgentServer) error {
	here, there := net.Pipe()
	go agent.ServeAgent(o.keys, there)
	return sshforward.Copy(stream.Context(), here, stream, nil)
}

// TestSession: secrets, credentials and agents of a client.
func TestSession(t *testing.T) {
	f := newFixture(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := &offers{keys: agent.NewKeyring()}
	if err := o.keys.Add(agent.AddedKey{PrivateKey: key, Comment: "mine"}); err != nil {
		t.Fatal(err)
	}
	id, detach := f.attach(t, service(func(g *grpc.Server) {
		secrets.RegisterSecretsServer(g, o)
		auth.RegisterAuthServer(g, o)
		sshforward.RegisterSSHServer(g, o)
	}))
	defer detach()
	c := &caller{server: f.Server, id: id}
	if b, err := c.Secret(t.Context(), "token"); err != nil || string(b) != "hush" {
		t.Errorf("secret: %q, %v", b, err)
	}
	if _, err := c.Secret(t.Context(), "other"); err == nil {
		t.Error("there is a secret that is not there")
	}
	for domain, want := range map[string]registry.Credential{
		"docker.io": {Username: "hub", Secret: "password"}, "token.example": {IdentityToken: "identity"}, "other.example": {},
	} {
		if got, err := c.credential(t.Context(), domain); err != nil || got != want {
			t.Errorf("%s: got %+v, want %+v, %v", domain, got, want, err)
		}
	}
	if _, ok := c.agent(t.Context(), "other"); ok {
		t.Error("there is an agent that is not there")
	}
	a, ok := c.agent(t.Context(), "default")
	if !ok {
		t.Fatal("no agent")
	}
	conn, err := a.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	list, err := agent.NewClient(conn).List()
	if err != nil || len(list) != 1 || list[0].Comment != "mine" {
		t.Errorf("keys: %v, %v", list, err)
	}
	if err := f.CheckSession(t.Context(), map[string][]string{"X-Docker-Expose-Session-Uuid": {id}}); err == nil {
		t.Error("a second session with the ID may come")
	}
	// Without a session there is nothing, and that is no error.
	none := &caller{server: f.Server}
	if cred, err := none.credential(t.Context(), "docker.io"); err != nil || cred != (registry.Credential{}) {
		t.Errorf("credentials without a session: %+v, %v", cred, err)
	}
}

// TestCalls: what clients send that makes no sense is an error, and harms no other.
func TestCalls(t *testing.T) {
	f := newFixture(t)
	cc := f.connect(t)
	control, bridge := controlapi.NewControlClient(cc), gwpb.NewLLBBridgeClient(cc)
	ctx := t.Context()
	garbage := &pb.Definition{Def: [][]byte{{1, 2, 3}, {4}}}
	for name, call := range map[string]func() error{
		"no ref": func() error { _, err := control.Solve(ctx, &controlapi.SolveRequest{}); return err },
		"garbage": func() error {
			_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "g", Definition: garbage})
			return err
		},
		"two kinds": func() error {
			_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "k", Frontend: "dockerfile.v0", Definition: garbage})
			return err
		},
		"a frontend": func() error {
			_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "f", Frontend: "other.v0"})
			return err
		},
		"an exporter": func() error {
			_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "x", Exporters: []*controlapi.Exporter{nil}})
			return err
		},
		"a cache": func() error {
			_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "c", Cache: &controlapi.CacheOptions{Exports: []*controlapi.CacheOptionsEntry{nil}}})
			return err
		},
		"a policy": func() error {
			_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "p", SourcePolicy: &spb.Policy{Rules: []*spb.Rule{nil}}})
			return err
		},
		"no session": func() error {
			_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "s", Frontend: "dockerfile.v0"})
			return err
		},
		"a filter": func() error {
			_, err := control.DiskUsage(ctx, &controlapi.DiskUsageRequest{Filter: []string{"nosuch==1"}})
			return err
		},
		"no build": func() error { _, err := bridge.Solve(ctx, &gwpb.SolveRequest{}); return err },
		"a long text": func() error {
			_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "l", Session: strings.Repeat("x", maxMessage)})
			return err
		},
		"not here": func() error { _, err := bridge.NewContainer(ctx, &gwpb.NewContainerRequest{}); return err },
		"attestations": func() error {
			_, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "a", FrontendAttrs: map[string]string{"attest:vsa": ""}})
			return err
		},
	} {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	workers, err := control.ListWorkers(ctx, &controlapi.ListWorkersRequest{})
	if err != nil || len(workers.Record) != 1 || workers.Record[0].Labels["org.mobyproject.buildkit.worker.moby.host-gateway-ip"] != "172.30.0.1" {
		t.Errorf("workers: %v, %v", workers, err)
	}
}

// TestConversation: the client says what to build, and its answers are held to what it was given.
func TestConversation(t *testing.T) {
	f := newFixture(t)
	cc := f.connect(t)
	control, bridge := controlapi.NewControlClient(cc), gwpb.NewLLBBridgeClient(cc)
	solved := make(chan error, 1)
	go func() {
		_, err := control.Solve(t.Context(), &controlapi.SolveRequest{Ref: "talk"})
		solved <- err
	}()
	ctx := buildid.AppendToOutgoingContext(t.Context(), "talk")
	ping, err := bridge.Ping(ctx, &gwpb.PingRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range ping.LLBCaps {
		switch apicaps.CapID(c.ID) {
		case pb.CapSourceGitBundle, pb.CapSourceImageBlob:
			t.Errorf("%s is promised", c.ID)
		}
	}
	res, err := bridge.Solve(ctx, &gwpb.SolveRequest{})
	if err != nil || res.Result.GetRef().GetId() != "" {
		t.Errorf("nothing to solve: %v, %v", res, err)
	}
	for name, call := range map[string]func() error{
		"a ref": func() error { _, err := bridge.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: "nosuch"}); return err },
		"a return": func() error {
			_, err := bridge.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{Result: &gwpb.Result_RefDeprecated{RefDeprecated: "nosuch"}}})
			return err
		},
		"nothing": func() error { _, err := bridge.Return(ctx, &gwpb.ReturnRequest{}); return err },
		"twice":   func() error { _, err := control.Solve(ctx, &controlapi.SolveRequest{Ref: "talk"}); return err },
	} {
		if err := call(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := bridge.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{}}); err != nil {
		t.Error(err)
	}
	if err := <-solved; err != nil {
		t.Error(err)
	}
	if _, err := bridge.Solve(ctx, &gwpb.SolveRequest{}); err == nil {
		t.Error("a build that has ended goes on")
	}
	stream, err := control.Status(t.Context(), &controlapi.StatusRequest{Ref: "talk"})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if err != io.EOF {
		t.Errorf("the status of a build that has ended: %v", err)
	}
}

// stuck sends the beginning of a directory, and then nothing.
type stuck struct {
	filesync.UnimplementedFileSyncServer
	begun chan struct{}
}

func (s *stuck) DiffCopy(stream filesync.FileSync_DiffCopyServer) error {
	if err := stream.Send(&types.Packet{Type: types.PACKET_STAT, Stat: &types.Stat{Path: "Dockerfile", Mode: 0o644}}); err != nil {
		return err
	}
	close(s.begun)
	<-stream.Context().Done()
	return stream.Context().Err()
}

// TestClientGoes: whichever of its connections ends, the build does, and nothing stays of it.
func TestClientGoes(t *testing.T) {
	f := newFixture(t)
	before := runtime.NumGoroutine()
	for _, what := range []string{"the session", "the call"} {
		s := &stuck{begun: make(chan struct{})}
		id, detach := f.attach(t, service(func(g *grpc.Server) { filesync.RegisterFileSyncServer(g, s) }))
		cc := f.connect(t)
		ctx, cancel := context.WithCancel(t.Context())
		solved := make(chan error, 1)
		go func() {
			_, err := controlapi.NewControlClient(cc).Solve(ctx, &controlapi.SolveRequest{Ref: what, Session: id, Frontend: "dockerfile.v0"})
			solved <- err
		}()
		<-s.begun
		if what == "the call" {
			cancel()
		} else {
			detach()
		}
		select {
		case err := <-solved:
			if err == nil {
				t.Errorf("%s ended, and the build succeeded", what)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s ended, the build goes on", what)
		}
		if what == "the call" {
			detach()
		}
		cancel()
		cc.Close()
	}
	left := func() string {
		for _, pattern := range []string{"build/tmp/*", "build/mirrors/*/tree"} {
			if found, _ := filepath.Glob(filepath.Join(f.store.Root(), pattern)); len(found) > 0 {
				return fmt.Sprint(found)
			}
		}
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Sprintf("%d goroutines of %d", n, before)
		}
		return ""
	}
	for deadline := time.Now().Add(time.Minute); left() != "" && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
	}
	if l := left(); l != "" {
		buf := make([]byte, 1<<20)
		t.Errorf("left behind: %s\n%s", l, buf[:runtime.Stack(buf, true)])
	}
}

// TestGarbage: whatever is said instead of HTTP/2 ends the connection.
func TestGarbage(t *testing.T) {
	f := newFixture(t)
	for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 1000), ""} {
		here, there := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			f.Serve(t.Context(), there)
		}()
		go io.Copy(io.Discard, here)
		here.Write([]byte(text))
		here.Close()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Fatalf("%q: it is still served", text)
		}
	}
}

// TestConfigure: what a definition makes has a config, for an image needs one.
func TestConfigure(t *testing.T) {
	images := []dockerfile.Image{{Platform: content.Host()}, {Config: []byte(`{"os":"its own"}`)}}
	if err := configure(images, ""); err != nil {
		t.Fatal(err)
	}
	if got := string(images[0].Config); !strings.Contains(got, `"os":"linux"`) || !strings.Contains(got, `"PATH=/`) {
		t.Errorf("the config that was made is %s", got)
	}
	if got := string(images[1].Config); got != `{"os":"its own"}` {
		t.Errorf("a config became %s", got)
	}
}
