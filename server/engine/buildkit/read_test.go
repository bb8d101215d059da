package buildkit

import (
	"context"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
)

// TestReadRange: a client reads any part of a file that fits into a message, however long the file is.
func TestReadRange(t *testing.T) {
	f := newExecFixture(t)
	_, err := f.client(t).Build(t.Context(), client.SolveOpt{}, "", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		long := boxes(t).Run(llb.Args(sh("printf head >/long; busybox truncate -s 40M /long; printf tail >>/long")), llb.Network(pb.NetMode_NONE)).Root()
		ref := solved(ctx, t, g, long)
		c, err := g.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", Ref: ref}}})
		if err != nil {
			return nil, err
		}
		defer c.Release(ctx)
		for _, at := range []struct {
			name string
			read func(gateway.ReadRequest) ([]byte, error)
		}{
			{"result", func(r gateway.ReadRequest) ([]byte, error) { return ref.ReadFile(ctx, r) }},
			{"container", func(r gateway.ReadRequest) ([]byte, error) {
				return c.ReadFile(ctx, gateway.ReadContainerRequest{ReadRequest: r})
			}},
		} {
			start := func(b []byte) string { return string(b[:min(len(b), 10)]) }
			for _, part := range []struct {
				offset, length int
				want           string
			}{{0, 4, "head"}, {1, 2, "ea"}, {40 << 20, 4, "tail"}, {40<<20 + 2, 1 << 20, "il"}, {41 << 20, 4, ""}, {0, 0, ""}, {40<<20 - 15<<20, 16 << 20, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}, {0, maxFile, "head\x00\x00\x00\x00\x00\x00"}} {
				got, err := at.read(gateway.ReadRequest{Filename: "/long", Range: &gateway.FileRange{Offset: part.offset, Length: part.length}})
				if err != nil || start(got) != part.want {
					t.Errorf("%s, %d bytes at %d: %q, %v", at.name, part.length, part.offset, start(got), err)
				}
			}
			if got, err := at.read(gateway.ReadRequest{Filename: "/long"}); err == nil {
				t.Errorf("%s, all of it: %d bytes", at.name, len(got))
			}
			if got, err := at.read(gateway.ReadRequest{Filename: "/long", Range: &gateway.FileRange{Length: 30 << 20}}); err == nil {
				t.Errorf("%s, more than a message takes: %d bytes", at.name, len(got))
			}
		}
		return gateway.NewResult(), nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
}
