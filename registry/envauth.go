package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
)

// AuthVariable has credentials in the form of config.json, which CI systems give to jobs (docker/cli cli/config/configfile,
// DockerEnvConfigKey). They come before those of the file.
const AuthVariable = "DOCKER_AUTH_CONFIG"

// envKeychain looks into the environment, and then asks next: the library's keychain reads the variable only where
// there is a config.json.
type envKeychain struct{ next authn.Keychain }

// Resolve implements authn.Keychain.
func (k envKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain. A variable that cannot be read is an error where nothing else has a
// credential.
func (k envKeychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	config, err := credentialIn(os.Getenv(AuthVariable), r.RegistryStr())
	if config != nil {
		return authn.FromConfig(*config), nil
	}
	a, failed := authn.Resolve(ctx, k.next, r)
	if err != nil && failed == nil && a == authn.Anonymous {
		return nil, err
	}
	return a, failed
}

// credentialIn returns what text has for a registry, or nil.
func credentialIn(text, registry string) (*authn.AuthConfig, error) {
	if text == "" {
		return nil, nil
	}
	var c struct {
		Auths map[string]authn.AuthConfig `json:"auths"`
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", AuthVariable, err, errdefs.ErrInvalidArgument)
	}
	for _, same := range []func(key string) bool{
		func(key string) bool { return key == registry },
		func(key string) bool { return !strings.Contains(key, "/") && Domain(key) == Domain(registry) },
		func(key string) bool { return Domain(key) == Domain(registry) },
	} {
		for key, config := range c.Auths {
			if same(key) && config != (authn.AuthConfig{}) {
				return &config, nil
			}
		}
	}
	return nil, nil
}
