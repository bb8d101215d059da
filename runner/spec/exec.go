package spec

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ExecOptions are what the user of exec asked for.
type ExecOptions struct {
	Args       []string
	Env        []string
	WorkingDir string // "" is the container's
	User       string // "" is the container's
	TTY        bool
	Privileged bool
	Files      Files  // the container's root filesystem
	Limits     []byte // of a process of the container, as /proc/PID/limits; nil if not known
}

// NewExec makes the process of an exec into a container of the given spec, by docker's
// rules: environment, directory and user are the container's unless given; so are limits, no higher
// than o.Limits, and the bound of capabilities, unless privileged.
func NewExec(s *specs.Spec, o ExecOptions) (*specs.Process, error) {
	if len(o.Args) == 0 {
		return nil, invalid("no command specified")
	}
	if o.WorkingDir != "" && !path.IsAbs(o.WorkingDir) {
		return nil, invalid("the working directory %q is not an absolute path", o.WorkingDir)
	}
	if i := slices.IndexFunc(append(o.Args, o.WorkingDir), func(s string) bool { return strings.IndexByte(s, 0) >= 0 }); i >= 0 {
		return nil, invalid("argument %d has a NUL", i)
	}
	p := &specs.Process{
		Terminal: o.TTY, Args: o.Args, Cwd: s.Process.Cwd, User: s.Process.User,
		Rlimits: within(s.Process.Rlimits, o.Limits), NoNewPrivileges: s.Process.NoNewPrivileges,
		ApparmorProfile: s.Process.ApparmorProfile, SelinuxLabel: s.Process.SelinuxLabel, // of a privileged exec, too, as in docker
	}
	if o.WorkingDir != "" {
		p.Cwd = path.Clean(o.WorkingDir)
	}
	base, home := containerEnv(s.Process.Env)
	if o.User != "" {
		var err error
		if p.User, home, err = resolveUser(o.Files, o.User, nil); err != nil {
			return nil, err
		}
		p.User.Umask = s.Process.User.Umask
	}
	var err error
	if p.Env, err = environment(base, home, o.Env); err != nil {
		return nil, err
	}
	list := []string{}
	switch {
	case o.Privileged:
		list = hostCapabilities()
	case s.Process.Capabilities != nil:
		list = s.Process.Capabilities.Bounding
	}
	p.Capabilities = capabilitySets(list, p.User)
	return p, nil
}

// containerEnv takes HOME out of a container's environment if it was not asked for, which
// is when it stands last.
func containerEnv(env []string) (rest []string, home string) {
	if n := len(env); n > 0 {
		if v, ok := strings.CutPrefix(env[n-1], "HOME="); ok {
			return slices.Clone(env[:n-1]), v
		}
	}
	return slices.Clone(env), "/"
}
