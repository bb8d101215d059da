package runner

import (
	"testing"

	"github.com/containerd/errdefs"
)

// TestRemoveWhileStarting: what is to be removed by force is removed, though it is just being started.
func TestRemoveWhileStarting(t *testing.T) {
	e := newEngine(t)
	for range 20 {
		c, err := e.Create(t.Context(), "", sh("sleep 100"))
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan error, 1)
		go func() {
			_, err := e.Start(t.Context(), c.ID, StartOptions{})
			started <- err
		}()
		if err := e.Remove(t.Context(), c.ID, RemoveOptions{Force: true}); err != nil {
			t.Error(err)
		}
		if err := <-started; err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
			t.Error(err)
		}
		if _, err := e.Get(t.Context(), c.ID); !errdefs.IsNotFound(err) {
			t.Errorf("it is still there: %v", err)
		}
	}
}
