package dockerfile

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// imageConfig is what instructions can change of the config object of an image.
type imageConfig struct {
	Cmd, Entrypoint, Env, OnBuild, Shell []string
	ExposedPorts, Volumes                map[string]struct{}
	Labels                               map[string]string
	User, WorkingDir, StopSignal         string
	Healthcheck                          any
}

// Change applies instructions of a Dockerfile to the config object of an image, JSON, as
// `docker commit --change` and `docker import --change` do. Fields it does not know stay
// what they are. Instructions that do more than describe are an errdefs.ErrInvalidArgument.
func Change(config []byte, changes []string) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	var c imageConfig
	for _, into := range []any{&fields, &c} {
		if err := json.Unmarshal(config, into); err != nil {
			return nil, fmt.Errorf("image config: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	ast, err := parser.Parse(strings.NewReader(strings.Join(changes, "\n")))
	if len(strings.TrimSpace(strings.Join(changes, ""))) == 0 {
		return config, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, node := range ast.AST.Children {
		command, err := instructions.ParseInstruction(node)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := c.apply(command, node.Value); err != nil {
			return nil, err
		}
	}
	for name, v := range map[string]any{
		"Cmd": c.Cmd, "Entrypoint": c.Entrypoint, "Env": c.Env, "OnBuild": c.OnBuild, "ExposedPorts": c.ExposedPorts,
		"Volumes": c.Volumes, "Labels": c.Labels, "User": c.User, "WorkingDir": c.WorkingDir, "StopSignal": c.StopSignal,
		"Healthcheck": c.Healthcheck,
	} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		if s := string(b); s == "null" || s == `""` {
			delete(fields, name)
			continue
		}
		fields[name] = b
	}
	return json.Marshal(fields)
}

func (c *imageConfig) apply(command any, name string) error {
	if e, ok := command.(interface {
		Expand(instructions.SingleWordExpander) error
	}); ok {
		lex := shell.NewLex('\\')
		err := e.Expand(func(word string) (string, error) {
			s, _, err := lex.ProcessWord(word, shell.EnvsFromSlice(c.Env))
			return s, err
		})
		if err != nil {
			return fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
	}
	switch i := command.(type) {
	case *instructions.CmdCommand:
		c.Cmd = c.commandLine(i.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		c.Entrypoint = c.commandLine(i.ShellDependantCmdLine)
	case *instructions.EnvCommand:
		for _, kv := range i.Env {
			c.setEnv(kv.Key, kv.Value)
		}
	case *instructions.ExposeCommand:
		for _, port := range i.Ports {
			if !strings.Contains(port, "/") {
				port += "/tcp"
			}
			put(&c.ExposedPorts, port, struct{}{})
		}
	case *instructions.LabelCommand:
		for _, kv := range i.Labels {
			put(&c.Labels, kv.Key, kv.Value)
		}
	case *instructions.OnbuildCommand:
		c.OnBuild = append(c.OnBuild, i.Expression)
	case *instructions.UserCommand:
		c.User = i.User
	case *instructions.VolumeCommand:
		for _, v := range i.Volumes {
			put(&c.Volumes, v, struct{}{})
		}
	case *instructions.WorkdirCommand:
		c.WorkingDir = i.Path
		if !strings.HasPrefix(i.Path, "/") {
			c.WorkingDir = "/" + i.Path
		}
	case *instructions.StopSignalCommand:
		c.StopSignal = i.Signal
	case *instructions.HealthCheckCommand:
		c.Healthcheck = i.Health
	default:
		return fmt.Errorf("%s is not a valid change command: %w", strings.ToLower(name), errdefs.ErrInvalidArgument)
	}
	return nil
}

func (c *imageConfig) commandLine(l instructions.ShellDependantCmdLine) []string {
	if !l.PrependShell {
		return l.CmdLine
	}
	sh := c.Shell
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return append(append([]string(nil), sh...), strings.Join(l.CmdLine, " "))
}

func (c *imageConfig) setEnv(key, value string) {
	for i, kv := range c.Env {
		if k, _, _ := strings.Cut(kv, "="); k == key {
			c.Env[i] = key + "=" + value
			return
		}
	}
	c.Env = append(c.Env, key+"="+value)
}

func put[V any](m *map[string]V, key string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = v
}
