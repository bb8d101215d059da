package provenance

import (
	"fmt"
	"maps"
	"net/url"
	"strings"

	bkprovenance "github.com/moby/buildkit/solver/llbsolver/provenance"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/urlutil"
	"github.com/opencontainers/go-digest"
)

// sessionAttrs are the attributes of a directory that say who has it now, and nothing of the build.
var sessionAttrs = [...]string{"local.session", "local.unique"}

// stabilise returns def without what is random in it, so that one build has one digest, and without credentials in
// URLs, and the digests of its operations, by those that they have in def. Operations that stand on others come after them.
func stabilise(def *pb.Definition) (*pb.Definition, map[digest.Digest]digest.Digest, error) {
	out := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	digests := map[digest.Digest]digest.Digest{}
	for _, raw := range def.Def {
		var op pb.Op
		if err := op.Unmarshal(raw); err != nil {
			return nil, nil, fmt.Errorf("operation of a definition: %w", err)
		}
		if s := op.GetSource(); s != nil {
			for _, name := range sessionAttrs {
				delete(s.Attrs, name)
			}
			s.Identifier = mask(s.Identifier)
			if full, ok := s.Attrs[pb.AttrFullRemoteURL]; ok {
				s.Attrs[pb.AttrFullRemoteURL] = mask(full)
			}
		}
		if e := op.GetExec(); e != nil && e.Meta != nil {
			maskProxies(e.Meta)
		}
		for _, in := range op.Inputs {
			is, ok := digests[digest.Digest(in.Digest)]
			if !ok {
				return nil, nil, fmt.Errorf("operation of a definition stands before %s, which it needs", in.Digest)
			}
			in.Digest = is.String()
		}
		stable, err := op.Marshal()
		if err != nil {
			return nil, nil, err
		}
		is := digest.FromBytes(stable)
		digests[digest.FromBytes(raw)] = is
		out.Def = append(out.Def, stable)
	}
	if def.Source == nil {
		return out, digests, nil
	}
	out.Source = &pb.Source{Locations: map[string]*pb.Locations{}}
	for was, where := range def.Source.Locations {
		if is, ok := digests[digest.Digest(was)]; ok {
			out.Source.Locations[is.String()] = where
		}
	}
	for _, info := range def.Source.Infos {
		stable := &pb.SourceInfo{Filename: info.Filename, Data: info.Data, Language: info.Language}
		if d := info.Definition; d != nil {
			inner, _, err := stabilise(&pb.Definition{Def: d.Def})
			if err != nil {
				return nil, nil, err
			}
			stable.Definition = inner
		}
		out.Source.Infos = append(out.Source.Infos, stable)
	}
	return out, digests, nil
}

// mask hides who asks in a URL of the web: CI puts a token there. A name for ssh is part of the address.
func mask(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User == nil || u.Scheme != "http" && u.Scheme != "https" {
		return address
	}
	return urlutil.RedactCredentials(address)
}

// maskProxies hides who asks the proxies of a command, which docker's client takes from its configuration for each build.
func maskProxies(m *pb.Meta) {
	for i, variable := range m.Env {
		if name, value, _ := strings.Cut(variable, "="); isProxy(name) {
			m.Env[i] = name + "=" + Redact(value)
		}
	}
	if p := m.ProxyEnv; p != nil {
		p.HttpProxy, p.HttpsProxy, p.FtpProxy, p.AllProxy = Redact(p.HttpProxy), Redact(p.HttpsProxy), Redact(p.FtpProxy), Redact(p.AllProxy)
	}
}

// isProxy says whether a variable is a proxy's address.
func isProxy(name string) bool {
	switch strings.ToUpper(name) {
	case "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY":
		return true
	}
	return false
}

// maskArgs hides who asks in the arguments of the frontend that are the addresses of contexts and proxies.
func maskArgs(args map[string]string) map[string]string {
	args = bkprovenance.FilterArgs(maps.Clone(args))
	for name, value := range args {
		if arg, ok := strings.CutPrefix(name, "build-arg:"); ok && isProxy(arg) {
			args[name] = Redact(value)
		}
	}
	return args
}

// Redact hides who asks in any URL, as buildx does with what it tells of a repository.
func Redact(address string) string { return urlutil.RedactCredentials(address) }
