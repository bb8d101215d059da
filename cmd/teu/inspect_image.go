//go:build !front && !porter

package main

import (
	"context"
	"encoding/json"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/library"
)

func (a *app) inspectImage(ctx context.Context, ref string, o library.InspectOptions) (any, error) {
	lib, err := a.library()
	if err != nil {
		return nil, err
	}
	d, err := lib.Inspect(ctx, ref, o)
	return imageObject{d}, err
}

// imageObject is an image for templates.
type imageObject struct{ library.Description }

// ForTemplates decodes the configuration, whose fields templates ask for whether they are set or not.
func (i imageObject) ForTemplates() any {
	typed := struct {
		library.Description
		Config        *imageConfig
		Os, OsVersion string     `json:"-"` // docker's names in Go
		Identity      *struct{}  `json:",omitempty"`
		Manifests     []struct{} `json:",omitempty"`
	}{Description: i.Description, Os: i.OS, OsVersion: i.OSVersion}
	if json.Unmarshal(i.Config, &typed.Config) != nil {
		return i.Description
	}
	return typed
}

// imageConfig is the configuration of an image with docker's own fields (docker image-spec v1.3, Image).
type imageConfig struct {
	ocispec.ImageConfig
	Healthcheck *struct {
		Test                                          []string      `json:",omitempty"`
		Interval, Timeout, StartPeriod, StartInterval time.Duration `json:",omitempty"`
		Retries                                       int           `json:",omitempty"`
	} `json:",omitempty"`
	OnBuild, Shell []string `json:",omitempty"`
}
