package provenance

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	bkprovenance "github.com/moby/buildkit/solver/llbsolver/provenance"
	"github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/gitutil"
	"github.com/moby/buildkit/util/purl"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/cache/content"
)

// sources adds what the operations of def use to c.
func (r *Record) sources(c *bkprovenance.Capture, def *pb.Definition) error {
	g, err := graph.Load(def, content.Host())
	if err != nil {
		return err
	}
	for _, v := range g.Vertices {
		switch o := v.Op.Op.(type) {
		case *pb.Op_Source:
			if err := r.source(c, v, o.Source); err != nil {
				return fmt.Errorf("provenance of %s: %w", v.Name, err)
			}
		case *pb.Op_Exec:
			command(c, o.Exec)
		}
	}
	return nil
}

// source adds a source to c.
func (r *Record) source(c *bkprovenance.Capture, v *graph.Vertex, s *pb.SourceOp) error {
	scheme, ref, _ := strings.Cut(s.Identifier, "://")
	pin, ok := r.pins[v.Digest]
	if !ok && scheme != "local" {
		c.IncompleteMaterials = true // nobody asked what it stands for, as nothing of it was needed
		return nil
	}
	switch scheme {
	case "docker-image", "oci-layout":
		d, err := digest.Parse(pin)
		if err != nil {
			return err
		}
		if scheme == "docker-image" {
			named, err := reference.ParseNormalizedNamed(ref)
			if err != nil {
				return err
			}
			ref = reference.TagNameOnly(named).String()
		}
		c.AddImage(types.ImageSource{Ref: ref, Platform: graph.Platform(v.Op.Platform), Digest: d, Local: scheme == "oci-layout"})
	case "http", "https":
		d, err := digest.Parse(pin)
		if err != nil {
			return err
		}
		c.AddHTTP(types.HTTPSource{URL: s.Identifier, Digest: d})
	case "git":
		repository(c, ref, s.Attrs, pin)
	case "local":
		c.AddLocal(types.LocalSource{Name: ref})
	default:
		c.IncompleteMaterials = true
	}
	return nil
}

// repository adds a source in git, by the URL that the user gave.
func repository(c *bkprovenance.Capture, id string, attrs map[string]string, commit string) {
	remote, fragment, _ := strings.Cut(id, "#")
	ref, _, _ := strings.Cut(fragment, ":")
	if full := attrs[pb.AttrFullRemoteURL]; full != "" {
		remote = full
	}
	if !gitutil.IsGitTransport(remote) {
		remote = "https://" + remote
	}
	if u, err := gitutil.ParseURL(remote); err == nil {
		remote = u.Remote
	}
	if ref != "" {
		remote += "#" + ref
	}
	c.AddGit(types.GitSource{URL: remote, Commit: commit})
	for _, secret := range []string{attrs[pb.AttrAuthTokenSecret], attrs[pb.AttrAuthHeaderSecret]} {
		if secret != "" {
			c.AddSecret(types.Secret{ID: secret, Optional: true})
		}
	}
	if id := attrs[pb.AttrMountSSHSock]; id != "" {
		c.AddSSH(types.SSH{ID: id, Optional: true})
	}
}

// command adds what a command gets from outside.
func command(c *bkprovenance.Capture, exec *pb.ExecOp) {
	for _, m := range exec.Mounts {
		switch m.MountType {
		case pb.MountType_SECRET:
			c.AddSecret(types.Secret{ID: m.SecretOpt.GetID(), Optional: m.SecretOpt.GetOptional()})
		case pb.MountType_SSH:
			c.AddSSH(types.SSH{ID: m.SSHOpt.GetID(), Optional: m.SSHOpt.GetOptional()})
		}
	}
	for _, s := range exec.Secretenv {
		c.AddSecret(types.Secret{ID: s.GetID(), Optional: s.GetOptional()})
	}
	if exec.Network != pb.NetMode_NONE {
		c.NetworkAccess = true
	}
}

// PackageURL names an image for a platform as packages of all kinds are named: pkg:docker/NAME@TAG?platform=...
func PackageURL(name string, p ocispec.Platform) (string, error) {
	return purl.RefToPURL("docker", name, &p)
}
