package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/slack"
)

const maxConfig = 8 << 20 // bytes of config.json

// configPath returns docker's config.json. A symbolic link there is the user's way of
// keeping the file elsewhere, so it is the target that is replaced.
func configPath() (string, error) {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("finding docker's config.json: %w", err)
		}
		dir = filepath.Join(home, ".docker")
	}
	path := filepath.Join(dir, "config.json")
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target, nil
	}
	return path, nil
}

// configFile is docker's config.json. All of it but the credentials is kept as it was.
type configFile struct {
	fields map[string]json.RawMessage
	auths  map[string]json.RawMessage // by server
	store  string                     // "credsStore"
	perKey map[string]string          // "credHelpers"
}

// editConfig changes the file at path under a lock against other teu processes. Readers
// and docker see the old file or the new one.
func editConfig(ctx context.Context, path string, edit func(*configFile) error) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	unlock, err := statefile.Lock(ctx, path+".lock", statefile.LockOptions{})
	if err != nil {
		return fmt.Errorf("locking %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	f, err := readConfig(path)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if err := edit(f); err != nil {
		return err
	}
	if err := f.write(path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// SetContext makes a context of docker the current one in docker's config.json, as `docker context use` does; "default" is
// none.
func SetContext(ctx context.Context, name string) error {
	path, err := configPath()
	if err != nil {
		return err
	}
	return editConfig(ctx, path, func(f *configFile) error {
		if delete(f.fields, "currentContext"); name == "default" {
			return nil
		}
		value, err := json.Marshal(name)
		f.fields["currentContext"] = value
		return err
	})
}

func readConfig(path string) (*configFile, error) {
	f := &configFile{fields: map[string]json.RawMessage{}, auths: map[string]json.RawMessage{}}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := readLimited(file, maxConfig)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return f, err
	}
	if err := json.Unmarshal(b, &f.fields); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	for name, into := range map[string]any{"auths": &f.auths, "credsStore": &f.store, "credHelpers": &f.perKey} {
		if raw, ok := f.fields[name]; ok {
			if err := json.Unmarshal(raw, into); err != nil {
				return nil, fmt.Errorf("field %s: %w: %w", name, errdefs.ErrInvalidArgument, err)
			}
		}
	}
	if f.fields == nil {
		f.fields = map[string]json.RawMessage{} // the document was "null"
	}
	if f.auths == nil {
		f.auths = map[string]json.RawMessage{}
	}
	return f, nil
}

// helper returns the credential helper for key, "" for none.
func (f *configFile) helper(key string) string {
	if h, ok := f.perKey[key]; ok {
		return h
	}
	return f.store
}

// write replaces the file. Its mode keeps others of the machine out.
func (f *configFile) write(path string) (err error) {
	auths, err := json.Marshal(f.auths)
	if err != nil {
		return err
	}
	f.fields["auths"] = auths
	b, err := json.MarshalIndent(f.fields, "", "\t")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".config.json-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(append(b, '\n'))
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// helperSecret is what credential helpers store.
type helperSecret struct {
	ServerURL string
	Username  string
	Secret    string
}

// runHelper calls a docker credential helper (docker/docker-credential-helpers, README,
// "Usage"). The input is a bare string or JSON; it never goes on the command line.
func runHelper(ctx context.Context, name, action string, input any) error {
	program := "docker-credential-" + name
	if name != filepath.Base(name) {
		return fmt.Errorf("credential helper %q: %w", name, errdefs.ErrInvalidArgument)
	}
	var in io.Reader
	if s, ok := input.(string); ok {
		in = strings.NewReader(s)
	} else {
		b, err := json.Marshal(input)
		if err != nil {
			return err
		}
		in = bytes.NewReader(b)
	}
	var out bytes.Buffer // helpers complain on standard output
	cmd := exec.CommandContext(ctx, program, action)
	cmd.Stdin, cmd.Stdout = in, &out
	var err error
	slack.Usual(func() { err = cmd.Run() })
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, action, err, printable(out.String()))
	}
	return nil
}
