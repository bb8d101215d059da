package main

import (
	"strings"
	"testing"
)

func TestEntersNamespace(t *testing.T) {
	for args, want := range map[string]bool{
		"":                           false,
		"version":                    false,
		"pull --help":                false,
		"serve registry --root /srv": false,
		"oci run x":                  false,
		"serve engine":               true,
		"create -h box image":        true,
		"run image program --help":   true,
		"--root /r ps":               true,
		"exec box ls --help":         true,
	} {
		if got := readCommandLine(strings.Fields(args)).entersNamespace(); got != want {
			t.Errorf("teu %s: %v, want %v", args, got, want)
		}
	}
}
