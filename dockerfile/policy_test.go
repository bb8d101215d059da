package dockerfile

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/sourcepolicy"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// policySeeds are policies and what they make of a source; "" for one they deny.
var policySeeds = []struct{ name, policy, source, want string }{
	{"none", `{}`, "docker-image://docker.io/library/busybox:latest", "docker-image://docker.io/library/busybox:latest"},
	{"deny", `{"rules":[{"action":"DENY","selector":{"identifier":"docker-image://docker.io/library/busybox*"}}]}`, "docker-image://docker.io/library/busybox:latest", ""},
	{"short names are meant too", `{"rules":[{"action":"DENY","selector":{"identifier":"docker-image://docker.io/library/busybox:latest"}}]}`, "docker-image://busybox", ""},
	{"the last counts", `{"rules":[{"action":"DENY","selector":{"identifier":"*"}},{"action":"ALLOW","selector":{"identifier":"docker-image://*/busybox:*"}}]}`, "docker-image://docker.io/library/busybox:latest", "docker-image://docker.io/library/busybox:latest"},
	{"exact is no wildcard", `{"rules":[{"action":"DENY","selector":{"identifier":"docker-image://*","match_type":"EXACT"}}]}`, "docker-image://docker.io/library/a:latest", "docker-image://docker.io/library/a:latest"},
	{"convert", `{"rules":[{"action":"CONVERT","selector":{"identifier":"docker-image://docker.io/library/golang:*"},"updates":{"identifier":"docker-image://docker.io/library/golang:${1}-alpine"}},` +
		`{"action":"ALLOW","selector":{"identifier":"*"}}]}`, "docker-image://docker.io/library/golang:1", "again and again"},
	{"convert once", `{"rules":[{"action":"CONVERT","selector":{"identifier":"^https://a/(.*)$","match_type":"REGEX"},"updates":{"identifier":"https://b/$1","attrs":{"http.checksum":"sha256:1"}}}]}`, "https://a/file", "https://b/file"},
	{"convert to what is denied", `{"rules":[{"action":"CONVERT","selector":{"identifier":"https://a"},"updates":{"identifier":"https://b"}},{"action":"DENY","selector":{"identifier":"https://b"}}]}`, "https://a", ""},
	{"by attribute", `{"rules":[{"action":"DENY","selector":{"identifier":"git://*","constraints":[{"key":"git.keepgitdir","value":"^t","condition":"MATCHES"},{"key":"x","value":"y","condition":"NOTEQUAL"}]}}]}`, "git://a/b", ""},
	{"each match of an expression", `{"rules":[{"action":"CONVERT","selector":{"identifier":"a","match_type":"REGEX"},"updates":{"identifier":"bb"}}]}`, "https://a/a", "https://bb/bb"},
	{"growing", `{"rules":[{"action":"CONVERT","selector":{"identifier":"https://*"},"updates":{"identifier":"https://$1$1$1$1"}}]}`, "https://aaaaaaaaaaaaaaaaaaaaaaaa", "more than 4096 bytes"},
}

func TestSourcePolicy(t *testing.T) {
	for _, c := range policySeeds {
		p, err := ParseSourcePolicy([]byte(c.policy))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		s := &pb.SourceOp{Identifier: c.source, Attrs: map[string]string{"git.keepgitdir": "true"}}
		changed, err := p.Apply(s)
		switch {
		case c.want == "":
			if !errdefs.IsPermissionDenied(err) {
				t.Errorf("%s: got %v, want a denial", c.name, err)
			}
		case err != nil:
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", c.name, err, c.want)
			}
		case s.Identifier != c.want || changed != (c.want != c.source):
			t.Errorf("%s: got %s, changed=%t", c.name, s.Identifier, changed)
		}
	}
	long := strings.Repeat("x", maxPolicyText+1)
	for name, text := range map[string]string{
		"no JSON": `{`, "no selector": `{"rules":[{"action":"DENY"}]}`, "nothing to convert to": `{"rules":[{"action":"CONVERT","selector":{}}]}`,
		"an expression": `{"rules":[{"selector":{"identifier":"(","match_type":"REGEX"}}]}`, "two stars": `{"rules":[{"selector":{"identifier":"**"}}]}`,
		"an action": `{"rules":[{"action":"MAYBE","selector":{}}]}`, "a condition": `{"rules":[{"selector":{"constraints":[null]}}]}`, "a null": `{"rules":[null]}`,
		"its expression": `{"rules":[{"selector":{"constraints":[{"value":"(","condition":"MATCHES"}]}}]}`,
		"a long pattern": `{"rules":[{"selector":{"identifier":"` + long + `"}}]}`, "a long value": `{"rules":[{"selector":{"constraints":[{"value":"` + long + `"}]}}]}`,
		"many rules": `{"rules":[` + strings.Repeat(`{"selector":{}},`, maxPolicyRules) + `{"selector":{}}]}`,
	} {
		if _, err := ParseSourcePolicy([]byte(text)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	p, err := NewSourcePolicy(&spb.Policy{Rules: []*spb.Rule{{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: "a"}}}},
		&spb.Policy{Rules: []*spb.Rule{{Action: spb.PolicyAction_ALLOW, Selector: &spb.Selector{Identifier: "a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Apply(&pb.SourceOp{Identifier: "a"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("one of two policies denies: got %v", err)
	}
}

// FuzzSourcePolicy holds that rules mean what they mean to BuildKit.
func FuzzSourcePolicy(f *testing.F) {
	for _, c := range policySeeds {
		f.Add([]byte(c.policy), c.source)
	}
	f.Fuzz(func(t *testing.T, text []byte, identifier string) {
		p, err := ParseSourcePolicy(text)
		if err != nil {
			return
		}
		var theirs spb.Policy
		if err := json.Unmarshal(text, &theirs); err != nil {
			t.Fatal(err)
		}
		source := func() *pb.SourceOp {
			return &pb.SourceOp{Identifier: normalised(identifier), Attrs: map[string]string{"git.keepgitdir": "true"}}
		}
		got := source()
		changed, err := p.Apply(got)
		if errdefs.IsInvalidArgument(err) {
			return // of a limit, which BuildKit has not
		}
		want := source()
		wantChanged, wantErr := sourcepolicy.NewEngine([]*spb.Policy{&theirs}).Evaluate(t.Context(), want)
		if (err != nil) != errors.Is(wantErr, sourcepolicy.ErrSourceDenied) || wantErr != nil && err == nil {
			t.Fatalf("got %v, BuildKit says %v", err, wantErr)
		}
		if err != nil {
			return
		}
		if changed != wantChanged || got.Identifier != want.Identifier || !cmp.Equal(got.Attrs, want.Attrs) {
			t.Errorf("got %v %t, BuildKit makes %v %t", got, changed, want, wantChanged)
		}
	})
}
