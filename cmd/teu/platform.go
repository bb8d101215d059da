package main

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// onePlatform reads --platform of a command for one image; "" is nil.
func onePlatform(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	p, err := parsePlatform(s)
	return &p, err
}

func parsePlatform(s string) (ocispec.Platform, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	p := ocispec.Platform{OS: "linux", Architecture: parts[0]}
	switch {
	case len(parts) > 3 || s == "":
		return p, fmt.Errorf("--platform %q: want OS/ARCHITECTURE[/VARIANT]", s)
	case len(parts) > 1:
		p.OS, p.Architecture = parts[0], parts[1]
	}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	}
	return p, nil
}
