package main

import (
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestListFlags(t *testing.T) {
	var c containerFlags
	f := pflag.NewFlagSet("run", pflag.ContinueOnError)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c.add(f)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 100<<10 {
		t.Errorf("the flags of run take %d bytes", n)
	}
	if err := f.Parse([]string{"-e", "A=1,2", "--env", `B="3"`}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"A=1,2", `B="3"`}; !slices.Equal(c.env, want) {
		t.Errorf("values %q, want %q", c.env, want)
	}
	if usage := f.FlagUsages(); !strings.Contains(usage, "--env stringArray ") || strings.Contains(usage, "[]") {
		t.Errorf("help: %s", usage)
	}
}
