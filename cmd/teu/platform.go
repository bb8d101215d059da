package main

import (
	"fmt"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// onePlatform reads --platform of a command for one image; "" is nil.
func onePlatform(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	p, err := parsePlatform(s)
	return &p, err
}

// manyPlatforms reads --platform of a command for several.
func manyPlatforms(list []string) ([]ocispec.Platform, error) {
	var out []ocispec.Platform
	for _, s := range list {
		p, err := parsePlatform(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// parsePlatform reads what docker reads, such as linux/arm64, arm or windows(10.0.20348)/amd64, and
// buildx's word for this machine.
func parsePlatform(s string) (ocispec.Platform, error) {
	if s == "local" {
		return content.Host(), nil
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return p, fmt.Errorf("--platform: %w", err)
	}
	return p, nil
}
