package dockerfile

import (
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
	dockerref "github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/imageutil"
	"github.com/moby/buildkit/util/wildcard"
)

// Limits of a policy. One rule may make an identifier longer, and the next one again: what comes out is limited too.
const (
	maxPolicyRules      = 1000
	maxPolicyText       = 4096 // bytes of a pattern, or of an identifier that a rule makes
	maxPolicyConversion = 20   // of one source, as in BuildKit
)

// A SourcePolicy says which sources a build may use, and what takes the place of others: BuildKit's
// sourcepolicy/policy.proto. It is not changed after it was made.
type SourcePolicy struct {
	all [][]policyRule // each has to allow a source
}

type policyRule struct {
	*spb.Rule
	pattern    *regexp.Regexp // of a wildcard, with a group for each *, or of a regular expression; nil: the identifier itself
	conditions []condition
}

type condition struct {
	*spb.AttrConstraint
	pattern *regexp.Regexp // of MATCHES
}

// ParseSourcePolicy reads a policy in the form that buildctl and buildx take, JSON.
func ParseSourcePolicy(b []byte) (*SourcePolicy, error) {
	var p spb.Policy
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("source policy: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return NewSourcePolicy(&p)
}

// NewSourcePolicy makes a policy of those that a client sent: each has to allow a source. One that makes no sense is
// an errdefs.ErrInvalidArgument.
func NewSourcePolicy(list ...*spb.Policy) (*SourcePolicy, error) {
	s := &SourcePolicy{}
	n := 0
	for _, p := range list {
		if n += len(p.GetRules()); n > maxPolicyRules {
			return nil, fmt.Errorf("source policy: more than %d rules: %w", maxPolicyRules, errdefs.ErrInvalidArgument)
		}
		var rules []policyRule
		for i, r := range p.GetRules() {
			rule, err := newPolicyRule(r)
			if err != nil {
				return nil, fmt.Errorf("source policy: rule %d: %w: %w", i+1, errdefs.ErrInvalidArgument, err)
			}
			rules = append(rules, rule)
		}
		s.all = append(s.all, rules)
	}
	return s, nil
}

func newPolicyRule(r *spb.Rule) (rule policyRule, err error) {
	sel := r.GetSelector()
	switch {
	case sel == nil:
		return rule, fmt.Errorf("it selects nothing")
	case len(sel.Identifier) > maxPolicyText:
		return rule, fmt.Errorf("its pattern has more than %d bytes", maxPolicyText)
	case r.Action == spb.PolicyAction_CONVERT && r.Updates == nil:
		return rule, fmt.Errorf("it does not say what to convert to")
	case spb.PolicyAction_name[int32(r.Action)] == "":
		return rule, fmt.Errorf("its action is unknown: %d", r.Action)
	}
	rule = policyRule{Rule: r}
	switch sel.MatchType {
	case spb.MatchType_EXACT:
	case spb.MatchType_REGEX:
		rule.pattern, err = regexp.Compile(sel.Identifier)
	case spb.MatchType_WILDCARD:
		var text string
		if text, err = wildcard.Wildcard2Regexp(sel.Identifier); err == nil {
			rule.pattern, err = regexp.Compile(text)
		}
	default:
		err = fmt.Errorf("its kind of match is unknown: %d", sel.MatchType)
	}
	if err != nil {
		return rule, err
	}
	for _, c := range sel.Constraints {
		cond := condition{AttrConstraint: c}
		switch {
		case c == nil || spb.AttrMatch_name[int32(c.Condition)] == "":
			return rule, fmt.Errorf("it has an unknown condition")
		case len(c.Value) > maxPolicyText:
			return rule, fmt.Errorf("its condition on %s has more than %d bytes", c.Key, maxPolicyText)
		case c.Condition == spb.AttrMatch_MATCHES:
			if cond.pattern, err = regexp.Compile(c.Value); err != nil {
				return rule, err
			}
		}
		rule.conditions = append(rule.conditions, cond)
	}
	return rule, nil
}

// Apply says whether s may be used, which is an errdefs.ErrPermissionDenied if not, and puts what the rules make of it in
// its place; then it returns true. Of rules that allow and deny the last counts. After a conversion all of them are
// looked at again.
func (p *SourcePolicy) Apply(s *pb.SourceOp) (changed bool, err error) {
	asked := s.Identifier
	s.Identifier = normalised(asked)
	for range maxPolicyConversion + 1 {
		converted, err := p.pass(s)
		if err != nil {
			return changed, err
		}
		if !converted {
			if !changed {
				s.Identifier = asked
			}
			return changed, nil
		}
		changed = true
	}
	return changed, fmt.Errorf("the source policy converts %s again and again: %w", asked, errdefs.ErrInvalidArgument)
}

// normalised is the identifier of an image with what people leave away, as BuildKit's rules are written for.
func normalised(identifier string) string {
	const scheme = "docker-image://"
	if len(identifier) < len(scheme) || identifier[:len(scheme)] != scheme {
		return identifier
	}
	named, err := dockerref.ParseNormalizedNamed(identifier[len(scheme):])
	if err != nil {
		return identifier
	}
	return scheme + dockerref.TagNameOnly(named).String()
}

// pass looks at the rules once, up to the first that changes s.
func (p *SourcePolicy) pass(s *pb.SourceOp) (converted bool, err error) {
	for _, rules := range p.all {
		denied := false
		for _, r := range rules {
			if !r.matches(s) {
				continue
			}
			switch r.Action {
			case spb.PolicyAction_ALLOW:
				denied = false
			case spb.PolicyAction_DENY:
				denied = true
			case spb.PolicyAction_CONVERT:
				if converted, err = r.convert(s); err != nil || converted {
					return converted, err
				}
			}
		}
		if denied {
			return false, fmt.Errorf("source %q denied by policy: %w", s.Identifier, errdefs.ErrPermissionDenied)
		}
	}
	return false, nil
}

func (r *policyRule) matches(s *pb.SourceOp) bool {
	for _, c := range r.conditions {
		value := s.Attrs[c.Key]
		switch c.Condition {
		case spb.AttrMatch_EQUAL:
			if value != c.Value {
				return false
			}
		case spb.AttrMatch_NOTEQUAL:
			if value == c.Value {
				return false
			}
		case spb.AttrMatch_MATCHES:
			if !c.pattern.MatchString(value) {
				return false
			}
		}
	}
	return s.Identifier == r.Selector.Identifier || r.pattern != nil && r.pattern.MatchString(s.Identifier)
}

func (r *policyRule) convert(s *pb.SourceOp) (changed bool, err error) {
	to := r.Updates.Identifier
	if to == "" {
		to = r.Selector.Identifier
	}
	if to, err = r.expand(s.Identifier, to); err != nil {
		return false, err
	}
	if to != "" && to != s.Identifier {
		s.Identifier, changed = to, true
	}
	for k, v := range r.Updates.Attrs {
		if s.Attrs[k] == v {
			continue
		}
		if s.Attrs == nil {
			s.Attrs = map[string]string{}
		}
		s.Attrs[k], changed = v, true
	}
	return changed, nil
}

// expand puts what the pattern matched into a template: $1, ${name}.
func (r *policyRule) expand(identifier, template string) (string, error) {
	if len(identifier) > maxPolicyText || len(template) > maxPolicyText {
		return "", fmt.Errorf("a source that a policy converts has more than %d bytes: %w", maxPolicyText, errdefs.ErrInvalidArgument)
	}
	if r.pattern == nil {
		return template, nil
	}
	// Of a regular expression each match is replaced, and a wildcard stands for all. One match after the other, so
	// that neither makes more than the limit, but for one template.
	var out []byte
	end := 0
	for _, m := range r.pattern.FindAllStringSubmatchIndex(identifier, -1) {
		out = append(out, identifier[end:m[0]]...)
		out = r.pattern.ExpandString(out, template, identifier, m)
		if end = m[1]; len(out) > maxPolicyText {
			return "", fmt.Errorf("a source policy makes an identifier of more than %d bytes: %w", maxPolicyText, errdefs.ErrInvalidArgument)
		}
	}
	return string(append(out, identifier[end:]...)), nil
}

// A ReplacedError says that a policy has put something that is no image in the place of one whose config is wanted. The
// frontend takes it for a named context and, for anything else, for a mistake.
type ReplacedError struct {
	Ref string // the image
	By  string // the identifier of what takes its place
}

func (e *ReplacedError) Error() string {
	return fmt.Sprintf("the source policy makes %s of the image %s, where a config is asked for", e.By, e.Ref)
}

// Unwrap gives the class of the error.
func (e *ReplacedError) Unwrap() error { return errdefs.ErrInvalidArgument }

// As lets the frontend find the error that it knows.
func (e *ReplacedError) As(target any) bool {
	t, ok := target.(**imageutil.ResolveToNonImageError)
	if ok {
		*t = &imageutil.ResolveToNonImageError{Ref: e.Ref, Updated: e.By}
	}
	return ok
}
