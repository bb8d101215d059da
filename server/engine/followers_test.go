package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/teu-dev/teu/runner/event"
)

// TestEndAfterLog: the end of a container is told after what it has said, to those who follow that run, and no client
// that does not read holds it up for long.
func TestEndAfterLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f followers
		told := func(e event.Event) (done bool) {
			go func() {
				f.await(t.Context(), e)
				done = true
			}()
			synctest.Wait()
			return done
		}
		leave := f.enter("box")
		time.Sleep(time.Second)
		die := event.Event{Type: event.Container, Action: "die", Actor: event.Actor{ID: "box"}, TimeNano: time.Now().UnixNano()}
		stop, other, before := die, die, die
		stop.Action, other.Actor.ID, before.TimeNano = "stop", "other", time.Now().Add(-time.Hour).UnixNano()
		for _, e := range []event.Event{stop, other, before} {
			if !told(e) {
				t.Errorf("%+v waits", e)
			}
		}
		ended := make(chan time.Duration, 1)
		await := func() {
			begin := time.Now()
			f.await(t.Context(), die)
			ended <- time.Since(begin)
		}
		go await()
		time.Sleep(100 * time.Millisecond)
		if len(ended) > 0 {
			t.Error("the end is told before the log")
		}
		leave()
		if d := <-ended; d != 100*time.Millisecond {
			t.Errorf("told %v after the log was", d)
		}
		defer f.enter("box")()
		if !told(die) {
			t.Error("it waits for who follows the next run")
		}
		die.TimeNano = time.Now().Add(time.Second).UnixNano()
		go await()
		if d := <-ended; d != saidBefore {
			t.Errorf("a client that does not read holds it up for %v", d)
		}
	})
	var f followers
	first, second := f.enter("box"), f.enter("box")
	first()
	second()
	if len(f.all) > 0 {
		t.Errorf("%v is left", f.all)
	}
}
