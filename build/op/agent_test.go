package op

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func TestAgentOnlySigns(t *testing.T) {
	dir := t.TempDir()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(dir, "user")
	l, err := net.Listen("unix", users)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go agent.ServeAgent(keys, c)
		}
	}()
	proxy, err := listenAgent(filepath.Join(dir, "step"), users)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", filepath.Join(dir, "step"))
	if err != nil {
		t.Fatal(err)
	}
	client := agent.NewClient(c)
	list, err := client.List()
	if err != nil || len(list) != 1 {
		t.Fatalf("keys: %v, %v", list, err)
	}
	public, err := ssh.ParsePublicKey(list[0].Blob)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := client.Sign(public, []byte("data"))
	if err != nil || public.Verify([]byte("data"), sig) != nil {
		t.Errorf("signature: %v", err)
	}
	for name, do := range map[string]func() error{
		"add":        func() error { return client.Add(agent.AddedKey{PrivateKey: key}) },
		"remove":     func() error { return client.Remove(public) },
		"remove all": client.RemoveAll,
		"lock":       func() error { return client.Lock([]byte("x")) },
	} {
		if do() == nil {
			t.Errorf("%s: allowed", name)
		}
	}
	if list, err := keys.List(); err != nil || len(list) != 1 {
		t.Errorf("the user's keys: %v, %v", list, err)
	}
	if err := proxy.close(); err != nil { // also ends the connection that is open
		t.Error(err)
	}
	if _, err := client.List(); err == nil {
		t.Error("the connection lives on")
	}
}
