package main

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A user that is not two numbers is refused, and never taken for another one (CVE-2026-30892,
// CVE-2024-40635).
func TestOCIExecUser(t *testing.T) {
	for user, want := range map[string]*specs.User{
		"":                        {UID: 7, GID: 8},
		"5":                       {UID: 5, GID: 8},
		"5:6":                     {UID: 5, GID: 6},
		"1000:":                   nil,
		":5":                      nil,
		"-1":                      nil,
		"4294967296":              nil,
		"4294967296:0":            nil,
		"0:4294967296":            nil,
		"18446744073709551616":    nil,
		"1:2:3":                   nil,
		" 1":                      nil,
		"0x10":                    nil,
		"root":                    nil,
		"1000:1000\x00:something": nil,
	} {
		p := &specs.Process{User: specs.User{UID: 7, GID: 8}}
		err := (&ociExec{user: user}).setUser(p)
		if want == nil {
			if err == nil {
				t.Errorf("%q is user %d:%d", user, p.User.UID, p.User.GID)
			}
			continue
		}
		if err != nil || p.User.UID != want.UID || p.User.GID != want.GID {
			t.Errorf("%q: %v, %d:%d", user, err, p.User.UID, p.User.GID)
		}
	}
	for group, ok := range map[uint]bool{0: true, 1<<32 - 2: true, 1 << 32: false} {
		p := &specs.Process{}
		if err := (&ociExec{groups: []uint{group}}).setUser(p); (err == nil) != ok || ok && p.User.AdditionalGids[0] != uint32(group) {
			t.Errorf("group %d: %v, %v", group, err, p.User.AdditionalGids)
		}
	}
}
