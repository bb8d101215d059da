package runner

import (
	"strings"
	"testing"
)

func TestCheckProcess(t *testing.T) {
	for _, o := range []Options{
		{}, {WorkingDir: "/x"}, {CapAdd: []string{"all"}, CapDrop: []string{"net_raw", "CAP_CHOWN"}}, {ExtraHosts: []string{"a:::1", "b:1.2.3.4", "c:host-gateway"}},
	} {
		if err := o.checkProcess(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	for word, o := range map[string]Options{
		"'x' is invalid": {WorkingDir: "x"}, `CapAdd: unknown capability: "CAP_FOO"`: {CapAdd: []string{"foo"}}, "invalid CapDrop": {CapDrop: []string{"foo"}},
		`bad format for add-host: "x"`: {ExtraHosts: []string{"x"}}, `bad format for add-host: ":1.1.1.1"`: {ExtraHosts: []string{":1.1.1.1"}},
		`invalid IP address in add-host: "1.2.3"`: {ExtraHosts: []string{"x:1.2.3"}},
	} {
		if err := o.checkProcess(); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%+v: %v, want %s", o, err, word)
		}
	}
}
