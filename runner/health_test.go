package runner

import "testing"

// TestHealthCheckOfNoKind: docker takes tests that nobody knows, and makes no probe of them.
func TestHealthCheckOfNoKind(t *testing.T) {
	for _, test := range [][]string{{"true"}, {"CMD"}, {"CMD-SHELL"}, {""}, {"HTTP"}, {"NONE", "x"}} {
		c := &Container{Config: Config{Options: Options{Health: &HealthCheck{Test: test}}}}
		if k, _, err := (&Engine{}).healthCheck(c, nil); k != nil || err != nil {
			t.Errorf("%q: %v, %v, want no check", test, k, err)
		}
	}
}
