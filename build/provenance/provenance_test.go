package provenance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// definition of one source, which is the result.
func of(t *testing.T, s *pb.SourceOp) (def *pb.Definition, source digest.Digest) {
	t.Helper()
	raw, err := (&pb.Op{Op: &pb.Op_Source{Source: s}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	source = digest.FromBytes(raw)
	last, err := (&pb.Op{Inputs: []*pb.Input{{Digest: source.String()}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &pb.Definition{Def: [][]byte{raw, last}}, source
}

// TestCredentials: what CI puts into URLs is told nowhere.
func TestCredentials(t *testing.T) {
	const commit = "0123456789012345678901234567890123456789"
	git, gitID := of(t, &pb.SourceOp{Identifier: "git://example.com/o/r.git#main", Attrs: map[string]string{pb.AttrFullRemoteURL: "https://token-1@example.com/o/r.git"}})
	web, webID := of(t, &pb.SourceOp{Identifier: "https://me:token-2@example.com/f"})
	r := NewRecord()
	r.Pin(gitID, commit)
	r.Pin(webID, digest.FromString("f").String())
	r.Read(web)
	for _, def := range []*pb.Definition{git, web} {
		for _, version := range []string{"v1", "v0.2"} {
			_, got, err := r.Predicate(Build{
				Frontend: "dockerfile.v0", Definition: def, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
				Args:   map[string]string{"context": "https://token-3@example.com/o/r.git#main", "context:other": "https://me:token-4@example.com/x"},
				Layers: func(digest.Digest, int) []ocispec.Descriptor { return nil },
			}, Options{Version: version})
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(got), "token-") {
				t.Errorf("%s tells credentials: %s", version, got)
			}
			if !strings.Contains(string(got), "example.com/f") || !strings.Contains(string(got), "example.com/o/r.git") {
				t.Errorf("%s: no addresses in %s", version, got)
			}
		}
	}
}

// TestProxyCredentials: docker's client gives each build the proxies of its configuration.
func TestProxyCredentials(t *testing.T) {
	const address = "http://me:token@proxy.example:3128"
	raw, err := (&pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{
		Args: []string{"true"}, Env: []string{"PATH=/bin", "https_proxy=" + address, "NO_PROXY=a,b"},
		ProxyEnv: &pb.ProxyEnv{HttpProxy: address, HttpsProxy: address, FtpProxy: address, AllProxy: "socks5://me:token@proxy.example", NoProxy: "a,b"},
	}}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	def, _, err := stabilise(&pb.Definition{Def: [][]byte{raw}})
	if err != nil {
		t.Fatal(err)
	}
	args := fmt.Sprint(maskArgs(map[string]string{"build-arg:HTTP_PROXY": address, "build-arg:all_proxy": address, "build-arg:NO_PROXY": "a,b"}))
	for _, got := range []string{string(def.Def[0]), args} {
		if strings.Contains(got, "token") || !strings.Contains(got, "proxy.example:3128") || !strings.Contains(got, "a,b") {
			t.Errorf("%q", got)
		}
	}
}

func TestStabilise(t *testing.T) {
	one, _ := of(t, &pb.SourceOp{Identifier: "local://context", Attrs: map[string]string{"local.unique": "1", "local.session": "a", "local.followpaths": `["f"]`}})
	two, _ := of(t, &pb.SourceOp{Identifier: "local://context", Attrs: map[string]string{"local.unique": "2", "local.session": "b", "local.followpaths": `["f"]`}})
	a, _, err := stabilise(one)
	if err != nil {
		t.Fatal(err)
	}
	b, digests, err := stabilise(two)
	if err != nil {
		t.Fatal(err)
	}
	if len(digests) != 2 || string(a.Def[0]) != string(b.Def[0]) || string(a.Def[1]) != string(b.Def[1]) {
		t.Errorf("two definitions of one thing differ: %q, %q", a.Def, b.Def)
	}
	two.Def[0], two.Def[1] = two.Def[1], two.Def[0]
	if _, _, err := stabilise(two); err == nil {
		t.Error("an operation before what it stands on was taken")
	}
}
