package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/docker/go-units"
)

// config is teu's configuration file, JSON with docker's daemon.json names where
// docker has them. A missing file is an empty configuration; an unknown key is an error.
type config struct {
	InsecureRegistries []string `json:"insecure-registries,omitempty"`
	RegistryMirrors    []string `json:"registry-mirrors,omitempty"` // of Docker Hub
	CDISpecDirs        []string `json:"cdi-spec-dirs,omitempty"`
	Storage            struct {
		Max string `json:"max,omitempty"` // "50GB": what blobs and layers may have together
	} `json:"storage,omitzero"`
	Builder struct {
		GC struct {
			Enabled            *bool  `json:"enabled,omitempty"`            // nil: yes
			DefaultKeepStorage string `json:"defaultKeepStorage,omitempty"` // "20GB": what the build cache may have
		} `json:"gc,omitzero"`
	} `json:"builder,omitzero"`
	// Registry is what "teu serve registry" needs and flags cannot say well.
	Registry registryConfig `json:"registry,omitzero"`
}

// cacheSize is build.Builder's CacheSize.
func (c config) cacheSize() (int64, error) {
	gc := c.Builder.GC
	if gc.Enabled != nil && !*gc.Enabled {
		return -1, nil
	}
	if gc.DefaultKeepStorage == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(gc.DefaultKeepStorage)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("configuration: builder.gc.defaultKeepStorage %q is no size such as 20GB", gc.DefaultKeepStorage)
	}
	return n, nil
}

// storageMax is the size the store is held to in bytes; 0 means any.
func (c config) storageMax() (int64, error) {
	if c.Storage.Max == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(c.Storage.Max)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("configuration: storage.max %q is no size such as 50GB", c.Storage.Max)
	}
	return n, nil
}

func readConfig(path string) (config, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config{}, nil
	}
	if err != nil {
		return config{}, fmt.Errorf("reading configuration: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(io.LimitReader(f, 1<<20))
	d.DisallowUnknownFields()
	var c config
	if err := d.Decode(&c); err != nil {
		return config{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	return c, nil
}
