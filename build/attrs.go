package build

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/dockerfile"
)

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// attrs translates the options into those of the frontend, and gives the operations the
// directories that the frontend will refer to.
func (r *run) attrs(ctx context.Context) (map[string]string, error) {
	o := r.o
	attrs := map[string]string{
		"target":             o.Target,
		"ulimit":             strings.Join(o.Ulimits, ","),
		"cgroup-parent":      o.CgroupParent,
		"force-network-mode": o.Network,
		"requestid":          o.Question,
	}
	hosts, err := r.hosts(ctx)
	if err != nil {
		return nil, err
	}
	attrs["add-hosts"] = strings.Join(hosts, ",")
	if o.Network == "default" {
		attrs["force-network-mode"] = ""
	}
	if o.ShmSize > 0 {
		attrs["shm-size"] = strconv.FormatInt(o.ShmSize, 10)
	}
	if o.Pull {
		attrs["image-resolve-mode"] = "pull"
	}
	for name, v := range attrs {
		if v == "" {
			delete(attrs, name) // to some options an empty value means something
		}
	}
	switch {
	case o.NoCache:
		attrs["no-cache"] = ""
	case len(o.NoCacheOf) > 0:
		attrs["no-cache"] = strings.Join(o.NoCacheOf, ",")
	}
	var all []string
	for _, p := range o.Platforms {
		all = append(all, platformName(p))
	}
	if len(all) > 0 {
		attrs["platform"] = strings.Join(all, ",")
	}
	for k, v := range o.Args {
		attrs["build-arg:"+k] = v
	}
	if o.SBOM != nil {
		attrs["attest:sbom"] = *o.SBOM
	}
	for k, v := range o.Limits {
		attrs[k] = v
	}
	for k, v := range o.Labels {
		attrs["label:"+k] = v
	}
	r.env.Locals = map[string]string{}
	if err := r.mainContext(ctx, attrs); err != nil {
		return nil, err
	}
	if err := r.namedContexts(attrs); err != nil {
		return nil, err
	}
	if o.Repository != nil {
		maps.Copy(attrs, o.Repository.attrs(r.env.Locals))
	}
	return attrs, nil
}

// hosts returns AddHosts with addresses only.
func (r *run) hosts(ctx context.Context) ([]string, error) {
	list := slices.Clone(r.o.AddHosts)
	gateway := ""
	for i, host := range list {
		name, address, _ := strings.Cut(host, "=")
		if address != HostGateway {
			continue
		}
		if gateway == "" {
			x, ok := r.b.Executor.(interface {
				HostGateway(context.Context) (netip.Addr, error)
			})
			if !ok {
				return nil, invalidf("unable to derive the IP value for host-gateway: commands have no network")
			}
			a, err := x.HostGateway(ctx)
			if err != nil {
				return nil, fmt.Errorf("unable to derive the IP value for host-gateway: %w", err)
			}
			gateway = a.String()
		}
		list[i] = name + "=" + gateway
	}
	return list, nil
}

func platformName(p ocispec.Platform) string { return platforms.FormatAll(p) }

// namedContexts gives the frontend the other contexts. A value that is no URL is a directory.
func (r *run) namedContexts(attrs map[string]string) error {
	for name, value := range r.o.Contexts {
		if name == "" {
			return invalidf("a named context has no name")
		}
		switch {
		case strings.HasPrefix(value, "docker-image://"), IsRemoteContext(value):
			attrs["context:"+name] = value
		case strings.HasPrefix(value, "oci-layout://"):
			if err := r.layoutContext(attrs, name, strings.TrimPrefix(value, "oci-layout://")); err != nil {
				return err
			}
		default:
			if err := checkDir(value); err != nil {
				return fmt.Errorf("context %s: %w", name, err)
			}
			local := name
			if name == dockerfile.LocalContext || name == dockerfile.LocalDockerfile {
				local = "_" + name
			}
			attrs["context:"+name] = "local:" + local
			r.env.Locals[local] = value
		}
	}
	return nil
}

// isRemote says whether a context is fetched by the frontend's own rules.
func isRemote(s string) bool {
	for _, prefix := range []string{"http://", "https://", "git://", "ssh://", "git@"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// IsRemoteContext says whether s, the context of a build, is no directory of this machine. Names without a
// scheme are only if there is no such directory, as in docker: github.com/OWNER/REPO and USER@HOST:PATH.
func IsRemoteContext(s string) bool {
	if isRemote(s) {
		return true
	}
	user, rest, at := strings.Cut(s, "@")
	host, _, colon := strings.Cut(rest, ":")
	scp := at && colon && user != "" && host != "" && !strings.ContainsAny(user+host, "/ ")
	if !scp && !strings.HasPrefix(s, "github.com/") {
		return false
	}
	_, err := os.Stat(s)
	return err != nil
}

// OverSSH says whether the context is a repository that is reached over ssh.
func OverSSH(context string) bool {
	return IsRemoteContext(context) && !strings.HasPrefix(context, "github.com/") &&
		(strings.HasPrefix(context, "ssh://") || !strings.Contains(context, "://"))
}

func checkDir(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if !fi.IsDir() {
		return invalidf("%s is not a directory", dir)
	}
	return nil
}
