package engine

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	dockerregistry "github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/registry"
)

// auth answers POST /auth: are these credentials right?
func (s *Server) auth(w http.ResponseWriter, r *request) error {
	var body dockerregistry.AuthConfig
	if err := r.need(&body); err != nil {
		return err
	}
	cred := credential(body)
	identity, err := s.Registry(registry.Granted(nil)).CheckCredential(r.Context(), body.ServerAddress, cred)
	if errdefs.IsUnavailable(err) {
		return err
	}
	if err != nil {
		return &statusError{http.StatusUnauthorized, message(err)}
	}
	return writeJSON(w, http.StatusOK, dockerregistry.AuthResponse{Status: "Login Succeeded", IdentityToken: identity})
}

func credential(a dockerregistry.AuthConfig) registry.Credential {
	c := registry.Credential{Username: a.Username, Secret: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if c.Username == "" && a.Auth != "" {
		if b, err := base64.StdEncoding.DecodeString(a.Auth); err == nil {
			c.Username, c.Secret, _ = strings.Cut(strings.TrimRight(string(b), "\x00"), ":")
		}
	}
	return c
}

// maxAuth is the longest X-Registry header that is read.
const maxAuth = 64 << 10

// decodeAuth reads base64url JSON, padded or not. A header that cannot be read counts as
// none, as it does for dockerd.
func decodeAuth(text string, v any) bool {
	if text == "" || len(text) > maxAuth {
		return false
	}
	b, err := base64.URLEncoding.DecodeString(text)
	if err != nil {
		if b, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "=")); err != nil {
			if b, err = base64.StdEncoding.DecodeString(text); err != nil {
				return false
			}
		}
	}
	return json.Unmarshal(b, v) == nil
}

// credentials reads X-Registry-Auth, which is for the registry of ref. The credentials
// of the server's own user are never used: its clients are not he.
func credentials(r *request, ref reference.Named) registry.Keychain {
	all := map[string]registry.Credential{}
	var a dockerregistry.AuthConfig
	if ref != nil && decodeAuth(r.Header.Get(dockerregistry.AuthHeader), &a) {
		if c := credential(a); c != (registry.Credential{}) {
			all[reference.Domain(ref)] = c
		}
	}
	return registry.Granted(all)
}

// buildCredentials reads X-Registry-Config: credentials by server.
func buildCredentials(r *request) registry.Keychain {
	all := map[string]registry.Credential{}
	var byServer map[string]dockerregistry.AuthConfig
	if decodeAuth(r.Header.Get("X-Registry-Config"), &byServer) {
		for server, a := range byServer {
			all[registry.Domain(server)] = credential(a)
		}
	}
	return registry.Granted(all)
}

// distribution answers GET /distribution/NAME/json: what a registry has under a name.
func (s *Server) distribution(w http.ResponseWriter, r *request) error {
	ref, err := reference.ParseNormalizedNamed(r.name)
	if err != nil {
		return invalid("invalid reference format: %s", err)
	}
	ref = reference.TagNameOnly(ref)
	repo, err := s.Registry(credentials(r, ref)).Repository(ref)
	if err != nil {
		return err
	}
	d, err := repo.Resolve(r.Context(), tagOf(ref))
	if err != nil {
		return err
	}
	out := dockerregistry.DistributionInspect{Descriptor: d, Platforms: []ocispec.Platform{}}
	if content.IsIndex(d.MediaType) {
		index, err := readIndex(r.Context(), repo, d)
		if err != nil {
			return err
		}
		for _, m := range index.Manifests {
			if m.Platform != nil {
				out.Platforms = append(out.Platforms, *m.Platform)
			}
		}
		return writeJSON(w, http.StatusOK, out)
	}
	img, err := content.Resolve(r.Context(), repo, d, content.Host())
	if err == nil {
		out.Platforms = append(out.Platforms, img.Config.Platform)
	}
	return writeJSON(w, http.StatusOK, out)
}

// maxManifest is the largest index that is read.
const maxManifest = 4 << 20

func readIndex(ctx context.Context, f content.Fetcher, d ocispec.Descriptor) (index ocispec.Index, err error) {
	if d.Size > maxManifest {
		return index, invalid("index %s is larger than %d bytes", d.Digest, maxManifest)
	}
	rc, err := f.Fetch(ctx, d)
	if err != nil {
		return index, err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		return index, err
	}
	return index, json.Unmarshal(b, &index)
}

// tagOf is the digest of ref or else its tag.
func tagOf(ref reference.Named) string {
	if d, ok := ref.(reference.Digested); ok {
		return d.Digest().String()
	}
	if t, ok := ref.(reference.Tagged); ok {
		return t.Tag()
	}
	return "latest"
}

// progressWriter writes a stream of JSON messages. Once it has begun an error is a message.
type progressWriter struct {
	w     flusher
	begun bool
}

// send writes a message; the first one also the head of the answer.
func (p *progressWriter) send(m any) error {
	if !p.begun {
		p.w.Header().Set("Content-Type", "application/json")
		p.w.WriteHeader(http.StatusOK)
		p.begun = true
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = p.w.Write(append(b, '\r', '\n')) // as dockerd ends them
	return ignoreWrite(err)
}

// failed is the message of an error, in its present and its old form.
type failed struct {
	ErrorDetail *jsonstream.Error `json:"errorDetail"`
	Error       string            `json:"error"`
}

// end reports an error: as the answer if nothing was written yet.
func (p *progressWriter) end(err error) error {
	if err == nil || !p.begun {
		return err
	}
	return p.send(failed{ErrorDetail: &jsonstream.Error{Message: message(err)}, Error: message(err)})
}
