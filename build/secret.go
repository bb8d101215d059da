package build

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
)

// A Secret is where the value of a secret is; exactly one field is set.
type Secret struct {
	File string
	Env  string
}

// maxSecret is BuildKit's limit (session/secrets/secretsprovider).
const maxSecret = 500 << 10

type secrets map[string]Secret

// Secret implements op.Secrets.
func (s secrets) Secret(_ context.Context, id string) ([]byte, error) {
	secret, ok := s[id]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	if secret.Env != "" {
		value, ok := os.LookupEnv(secret.Env)
		if !ok {
			return nil, fmt.Errorf("environment variable %s is not set: %w", secret.Env, errdefs.ErrNotFound)
		}
		return []byte(value), nil
	}
	f, err := os.Open(secret.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSecret {
		return nil, fmt.Errorf("larger than %d bytes: %w", maxSecret, errdefs.ErrResourceExhausted)
	}
	return b, nil
}
