package buildkit

import (
	"context"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/dockerfile"
)

// maxPolicyQuestions is how often the client is asked about one source, as in BuildKit.
const maxPolicyQuestions = 10

// policy returns what says which sources a build may use: rules, and a session of the client that is asked about what they
// allow. nil: neither is there.
func (c *caller) policy(rules *spb.Policy, session string) (build.Policy, error) {
	if len(rules.GetRules()) == 0 && session == "" {
		return nil, nil
	}
	fixed, err := dockerfile.NewSourcePolicy(rules)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, sources build.Sources, s *pb.SourceOp, p *pb.Platform) (bool, error) {
		changed, err := fixed.Apply(s)
		if err != nil || session == "" {
			return changed, err
		}
		asked, err := c.askPolicy(ctx, session, fixed, sources, s, p)
		return changed || asked, err
	}, nil
}

// askPolicy asks the client about a source. It may ask back what the source is, and convert it, before it decides.
func (c *caller) askPolicy(ctx context.Context, session string, fixed *dockerfile.SourcePolicy, sources build.Sources, s *pb.SourceOp, p *pb.Platform) (changed bool, err error) {
	conn, err := c.of(ctx, session)
	if err != nil {
		return false, err
	}
	client := policysession.NewPolicyVerifierClient(conn.Conn())
	question := &policysession.CheckPolicyRequest{Platform: p}
	for range maxPolicyQuestions {
		if question.Source == nil {
			question.Source = sourceOnly(s)
		}
		answer, err := client.CheckPolicy(ctx, question)
		if err != nil {
			return changed, fmt.Errorf("asking the client whether %s may be used: %w", s.Identifier, err)
		}
		if back := answer.GetRequest(); back != nil {
			if back.Source.GetIdentifier() != s.Identifier {
				return changed, fmt.Errorf("the client's policy asks about %q instead of %q: %w", back.Source.GetIdentifier(), s.Identifier, errdefs.ErrInvalidArgument)
			}
			back.Source = sourceOnly(s).Source
			if question.Source, err = describe(ctx, sources, back); err != nil {
				return changed, err
			}
			continue
		}
		decision := answer.GetDecision()
		switch action := decision.GetAction(); {
		case decision == nil:
			return changed, fmt.Errorf("the client's policy decides nothing about %s: %w", s.Identifier, errdefs.ErrInvalidArgument)
		case action == spb.PolicyAction_ALLOW:
			return changed, nil
		case action == spb.PolicyAction_CONVERT && decision.Update != nil:
			s.Identifier, s.Attrs, changed = decision.Update.Identifier, decision.Update.Attrs, true
			if _, err := fixed.Apply(s); err != nil {
				return changed, err
			}
			question.Source = nil
		default:
			err := fmt.Errorf("source %q not allowed by policy: action %s: %w", s.Identifier, action, errdefs.ErrPermissionDenied)
			return changed, policysession.WrapDenyMessages(err, decision.GetDenyMessages())
		}
	}
	return changed, fmt.Errorf("the client's policy did not decide about %s after %d questions: %w", s.Identifier, maxPolicyQuestions, errdefs.ErrResourceExhausted)
}

// sourceOnly is a source of which nothing else is known yet: a copy, as who is told of it may write to it.
func sourceOnly(s *pb.SourceOp) *gwpb.ResolveSourceMetaResponse {
	return &gwpb.ResolveSourceMetaResponse{Source: &pb.SourceOp{Identifier: s.Identifier, Attrs: maps.Clone(s.Attrs)}}
}

// permitted returns def with the sources that policies of one request put into it.
func permitted(ctx context.Context, def *pb.Definition, policies []*spb.Policy) (*pb.Definition, error) {
	if len(policies) == 0 || def == nil {
		return def, nil
	}
	policy, err := dockerfile.NewSourcePolicy(policies...)
	if err != nil {
		return nil, err
	}
	return graph.Rewrite(ctx, def, func(_ context.Context, o *pb.Op) (bool, error) { return policy.Apply(o.GetSource()) })
}
