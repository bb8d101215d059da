package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/dns"
)

// NetworkOptions are what a keeper does for its container's network.
type NetworkOptions struct {
	Forwards []Forward `json:",omitempty"`
	DNS      string    `json:",omitempty"` // path of the dns.Config; it may come to be later
	Firewall Firewall  `json:",omitzero"`
}

// Forward is a listener of the keeper for a published port: what comes to Listen goes to
// Target, the container's. Most packets never come here, since the host's rules rewrite
// their destination; those to a loopback address do, and all do while somebody has flushed
// the rules.
type Forward struct {
	Network  string // tcp4, tcp6, udp4 or udp6
	Listen   string // "127.0.0.1:8080"
	Target   string // "172.30.0.2:80"
	From     string `json:",omitempty"` // path of the network namespace to reach it from, "" for ours
	Optional bool   `json:",omitempty"` // the host may lack the address
}

// forwarder is a Forward at work.
type forwarder interface {
	run()
	listens() Forward
	retarget(address string)
	close()
}

func listenForward(f Forward, r *room) (forwarder, error) {
	switch f.Network {
	case "udp4", "udp6":
		return listenUDP(f, r)
	case "tcp4", "tcp6":
		return listenTCP(f, r)
	}
	return nil, fmt.Errorf("forward of %q: %w", f.Network, unix.EPROTONOSUPPORT)
}

// Network tells a container's keeper that its networks have changed.
func (k *Client) Network(ctx context.Context, o NetworkOptions) error {
	return k.command(ctx, request{Op: "network", Network: o})
}

// openNetwork opens everything of s.cfg; nothing is served yet.
func (s *supervisor) openNetwork() (err error) {
	if err := s.openForwards(s.cfg.Forwards); err != nil {
		return err
	}
	s.names, err = listenNames(s.cfg.DNS)
	return err
}

func (s *supervisor) openForwards(list []Forward) error {
	if s.room == nil && len(list) > 0 {
		s.room = newRoom()
	}
	for _, f := range list {
		l, err := listenForward(f, s.room)
		if err != nil && f.Optional && !errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return err
		}
		s.forwards = append(s.forwards, l)
	}
	return nil
}

func listenNames(path string) (*dns.Responder, error) {
	if path == "" {
		return nil, nil
	}
	r, err := dns.Listen(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return r, err
}

func (s *supervisor) serveNetwork() {
	for _, f := range s.forwards {
		go f.run()
	}
	if s.names != nil {
		go s.names.Serve()
	}
	// A container that ends at once is spared the thread.
	time.AfterFunc(time.Second, func() { watchFirewall(s.cfg.Firewall, s.cfg.Env) })
}

func (s *supervisor) closeNetwork() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.forwards {
		f.close()
	}
	if s.names != nil {
		s.names.Close()
	}
}

// changeNetwork follows a change of the container's networks, and so will the keeper after us.
func (s *supervisor) changeNetwork(o NetworkOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, want := range o.Forwards {
		i := slices.IndexFunc(s.forwards, func(f forwarder) bool {
			have := f.listens()
			return have.Network == want.Network && have.Listen == want.Listen
		})
		if i >= 0 {
			s.forwards[i].retarget(want.Target)
			continue
		}
		known := len(s.forwards)
		if err := s.openForwards([]Forward{want}); err != nil {
			return err
		}
		for _, f := range s.forwards[known:] {
			go f.run()
		}
	}
	if s.names == nil {
		names, err := listenNames(o.DNS)
		if err != nil {
			return err
		}
		if s.names = names; names != nil {
			go names.Serve()
		}
	}
	s.cfg.NetworkOptions = o
	return statefile.Write(filepath.Join(s.cfg.RunDir, configName), s.cfg, statefile.WriteOptions{})
}
