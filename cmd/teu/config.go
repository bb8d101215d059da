package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// config is teu's configuration file, JSON with docker's daemon.json names where
// docker has them. A missing file is an empty configuration; an unknown key is an error.
type config struct {
	InsecureRegistries []string `json:"insecure-registries,omitempty"`
	RegistryMirrors    []string `json:"registry-mirrors,omitempty"` // of Docker Hub
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
