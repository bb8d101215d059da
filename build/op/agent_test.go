package op

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

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
	checkSigner(t, dir, SSHAgent{Socket: users}, key, keys)
}

// TestKeysInFiles are an agent too.
func TestKeysInFiles(t *testing.T) {
	dir := t.TempDir()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	path, text := filepath.Join(dir, "key"), filepath.Join(dir, "text")
	for name, data := range map[string][]byte{path: pem.EncodeToMemory(block), text: []byte("no key")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, err := OpenSSHAgent([]string{path}, false)
	if err != nil {
		t.Fatal(err)
	}
	checkSigner(t, dir, a, key, a.keys)
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket := l.Addr().String()
	for _, paths := range [][]string{{text}, {path, socket}, {socket, socket}, {filepath.Join(dir, "missing")}, nil} {
		if _, err := OpenSSHAgent(paths, false); err == nil {
			t.Errorf("%q: taken", paths)
		}
	}
	if _, err := OpenSSHAgent([]string{path}, true); err == nil {
		t.Error("keys are raw")
	}
}

// TestRawAgent passes on what is no protocol of agents.
func TestRawAgent(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "user"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c) // an echo, until the other side has said all
	}()
	proxy, err := listenAgent(filepath.Join(dir, "step"), SSHAgent{Socket: l.Addr().String(), Raw: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", filepath.Join(dir, "step"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("what ever")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(c); err != nil || string(said) != "what ever" {
		t.Errorf("got %q, %v", said, err)
	}
	if err := proxy.close(); err != nil {
		t.Error(err)
	}
}

// checkSigner holds that a command can list and sign with the key of a, which keys has, and nothing else.
func checkSigner(t *testing.T, dir string, a SSHAgent, key ed25519.PrivateKey, keys agent.Agent) {
	t.Helper()
	proxy, err := listenAgent(filepath.Join(dir, "step"), a)
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

// TestAgentManyConnections: those of one command do not take all descriptors of the build; who is too many waits.
func TestAgentManyConnections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	p, err := listenAgent(path, SSHAgent{keys: agent.NewKeyring().(agent.ExtendedAgent)})
	if err != nil {
		t.Fatal(err)
	}
	connect := func() net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	first := connect()
	for range maxAgentConns - 1 {
		connect()
	}
	last := connect()
	answer := make(chan error, 1)
	go func() {
		_, err := agent.NewClient(last).List()
		answer <- err
	}()
	select {
	case err := <-answer:
		t.Errorf("one connection more than %d was served: %v", maxAgentConns, err)
	case <-time.After(100 * time.Millisecond):
		first.Close()
		if err := <-answer; err != nil {
			t.Errorf("when another had ended: %v", err)
		}
	}
	waiting := connect()
	if err := p.close(); err != nil {
		t.Error(err)
	}
	if _, err := waiting.Read(make([]byte, 1)); err == nil {
		t.Error("a connection is left when the proxy is closed")
	}
}
