package network

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// churnEnv marks a process that uses networks until it is killed: ROOT:RUNROOT.
const churnEnv = "TEU_NETWORK_TEST_CHURN"

// TestChurn is what the processes of TestKilledAtAnyTime do.
func TestChurn(t *testing.T) {
	roots := os.Getenv(churnEnv)
	if roots == "" {
		return // it is nobody's test but TestKilledAtAnyTime's
	}
	root, runRoot, _ := strings.Cut(roots, ":")
	m, ctx := Open(root, runRoot), context.Background()
	for i := 0; ; i++ {
		name := fmt.Sprint("n", rand.IntN(4))
		n, err := m.Create(ctx, CreateOptions{Name: name})
		if err != nil {
			if n, err = m.Find(name); err != nil {
				continue
			}
		}
		id := fmt.Sprint("c", rand.IntN(6))
		// Any of these may fail because of what others do at the same time.
		m.Attach(ctx, id, Options{Ports: []Port{{Protocol: "tcp", Container: 80}}})
		m.Connect(ctx, id, Attachment{Network: n, Names: []string{id}})
		if i%2 == 0 {
			m.Disconnect(ctx, id, n.ID)
		}
		m.Detach(ctx, id)
		m.Remove(ctx, n.ID)
	}
}

// TestKilledAtAnyTime kills processes that use one store's networks at once. Whatever they
// leave can be taken away, and then nothing is there.
func TestKilledAtAnyTime(t *testing.T) {
	if !sandbox(t) {
		return
	}
	rounds := 12
	if os.Getenv("TEU_SOAK") != "" {
		rounds = 150
	}
	before := linkNames(t)
	root, runRoot := t.TempDir(), t.TempDir()
	for range rounds {
		var running []*exec.Cmd
		for range 2 {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestChurn$")
			cmd.Env = append(os.Environ(), churnEnv+"="+root+":"+runRoot)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			running = append(running, cmd)
		}
		for _, cmd := range running {
			time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond)
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	m, ctx := Open(root, runRoot), t.Context()
	t.Run("after", func(t *testing.T) {
		a := attach(t, m, "after", Options{})
		serve(t, a.NetNS, ":80")
		if _, err := ask(t, here, a.Address.Addr().String()+":80"); err != nil {
			t.Errorf("a container after all that: %v", err)
		}
	})
	left, err := m.sandboxes()
	for id := range left {
		err = errors.Join(err, m.Detach(ctx, id))
	}
	defined, e := m.defined()
	err = errors.Join(err, e)
	for _, n := range defined {
		err = errors.Join(err, m.Remove(ctx, n.ID))
	}
	if err := errors.Join(err, m.Reset(ctx)); err != nil {
		t.Fatal(err)
	}
	wantLinks(t, before)
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), runRoot) {
		t.Errorf("mounts are left below %s: %v", runRoot, err)
	}
	if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("tables are left: %s, %v", out, err)
	}
}
