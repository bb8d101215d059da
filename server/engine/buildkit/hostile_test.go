package buildkit

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/tonistiigi/fsutil/types"
)

// A packets is a sender of files that says what it was told to, and has no other data.
type packets struct {
	ctx  context.Context
	list []*types.Packet
	reqs chan uint32
	fin  chan struct{} // closed when the receiver is done; what it asked for may still come
	once sync.Once
	// ended says that the end was answered.
	ended bool
}

func (p *packets) Context() context.Context { return p.ctx }

func (p *packets) SendMsg(m any) error {
	packet := m.(*types.Packet)
	switch packet.Type {
	case types.PACKET_REQ:
		select {
		case p.reqs <- packet.ID:
		default:
		}
	case types.PACKET_FIN, types.PACKET_ERR:
		p.once.Do(func() { close(p.fin) })
	}
	return nil
}

func (p *packets) RecvMsg(m any) error {
	out := m.(*types.Packet)
	if len(p.list) > 0 {
		next := p.list[0]
		p.list = p.list[1:]
		out.Type, out.ID, out.Data, out.Stat = next.Type, next.ID, next.Data, next.Stat
		return nil
	}
	// All is said; what is asked for is empty.
	data := func(id uint32) error { out.Type, out.ID = types.PACKET_DATA, id; return nil }
	select {
	case id := <-p.reqs:
		return data(id)
	default:
	}
	select {
	case id := <-p.reqs:
		return data(id)
	case <-p.fin:
		if p.ended {
			return io.EOF
		}
		p.ended, out.Type = true, types.PACKET_FIN
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// stream sends stats, and then that there are no more.
func stream(ctx context.Context, stats ...*types.Stat) *packets {
	p := &packets{ctx: ctx, reqs: make(chan uint32, 1000), fin: make(chan struct{})}
	for _, s := range stats {
		p.list = append(p.list, &types.Packet{Type: types.PACKET_STAT, Stat: s})
	}
	p.list = append(p.list, &types.Packet{Type: types.PACKET_STAT})
	return p
}

func file(path string) *types.Stat { return &types.Stat{Path: path, Mode: 0o644} }
func dir(path string) *types.Stat  { return &types.Stat{Path: path, Mode: uint32(fs.ModeDir | 0o755)} }
func link(path, to string) *types.Stat {
	return &types.Stat{Path: path, Mode: uint32(fs.ModeSymlink | 0o777), Linkname: to}
}

// outside makes a directory with a file beside the one that is received into.
func outside(t testing.TB) (home, sentinel string) {
	home = t.TempDir()
	sentinel = filepath.Join(home, "outside", "f")
	for _, d := range []string{"tree", "outside"} {
		if err := os.Mkdir(filepath.Join(home, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(sentinel, []byte("sentinel"), 0o600); err != nil {
		t.Fatal(err)
	}
	return home, sentinel
}

func untouched(t testing.TB, sentinel string) {
	t.Helper()
	text, err := os.ReadFile(sentinel)
	fi, statErr := os.Stat(sentinel)
	beside, dirErr := os.ReadDir(filepath.Dir(sentinel))
	if err := errors.Join(err, statErr, dirErr); err != nil || string(text) != "sentinel" || fi.Mode() != 0o600 || len(beside) != 1 {
		t.Fatalf("something outside was changed: %q, %v, %v, %v", text, fi, beside, err)
	}
}

// TestHostileFiles: what a client sends stays inside, or is refused.
func TestHostileFiles(t *testing.T) {
	for name, c := range map[string]struct {
		stats []*types.Stat
		want  string // of the error; "": none
	}{
		"files":                 {stats: []*types.Stat{dir("a"), file("a/b"), link("c", "a/b")}},
		"a link out":            {stats: []*types.Stat{link("l", "../outside/f"), link("m", "/etc/passwd")}},
		"an absolute path":      {stats: []*types.Stat{file("/etc/new")}, want: "absolute path"},
		"a path up":             {stats: []*types.Stat{file("../outside/f")}, want: "escape check"},
		"a path through":        {stats: []*types.Stat{dir("a"), file("a/../../outside/f")}, want: "unclean path"},
		"below a link":          {stats: []*types.Stat{link("a", "../outside"), file("a/f")}, want: "out of order"},
		"a directory and link":  {stats: []*types.Stat{dir("a"), link("a", "../outside"), file("a/f")}, want: "out of order"},
		"twice":                 {stats: []*types.Stat{file("a"), file("a")}, want: "out of order"},
		"out of order":          {stats: []*types.Stat{file("b"), file("a")}, want: "out of order"},
		"without its directory": {stats: []*types.Stat{file("a/b")}, want: "out of order"},
		"a hard link out":       {stats: []*types.Stat{{Path: "h", Mode: 0o644, Linkname: "../outside/f"}}, want: "invalid link"},
		"a device":              {stats: []*types.Stat{{Path: "null", Mode: uint32(fs.ModeDevice | fs.ModeCharDevice | 0o666), Devmajor: 1, Devminor: 3}}},
		"a long path":           {stats: []*types.Stat{file(strings.Repeat("x", maxPath+1))}, want: "a path of 4097 bytes"},
		"a NUL":                 {stats: []*types.Stat{file("a\x00b")}, want: "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			home, sentinel := outside(t)
			// What was there before may have been anything.
			if err := os.Symlink("../outside", filepath.Join(home, "tree", "old")); err != nil {
				t.Fatal(err)
			}
			err := receiveTree(t.Context(), stream(t.Context(), c.stats...), filepath.Join(home, "tree"), nil)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			untouched(t, sentinel)
			filepath.WalkDir(filepath.Join(home, "tree"), func(path string, d fs.DirEntry, err error) error {
				if d.Type()&fs.ModeDevice != 0 {
					t.Errorf("%s is a device", path)
				}
				return err
			})
		})
	}
}

// TestEndlessFiles: a client that does not stop is stopped.
func TestEndlessFiles(t *testing.T) {
	l := &limited{Stream: stream(t.Context(), file("a"), file("b"), file("c")), left: 2}
	var err error
	for err == nil {
		err = l.RecvMsg(&types.Packet{})
	}
	if !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v", err)
	}
}

// TestUnasked: data that nobody asked for is an error.
func TestUnasked(t *testing.T) {
	home, sentinel := outside(t)
	p := stream(t.Context(), file("a"))
	p.list = append([]*types.Packet{{Type: types.PACKET_DATA, ID: 7, Data: []byte("x")}}, p.list...)
	if err := receiveTree(t.Context(), p, filepath.Join(home, "tree"), nil); err == nil {
		t.Error("data that nobody asked for was taken")
	}
	untouched(t, sentinel)
}

// FuzzReceive sends files, directories and links of short names, whose targets are the names too.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("da\x00fa/b\x00lc\x00"), "../outside/f")
	f.Add([]byte("la\x00fa/f\x00"), "../outside")
	f.Add([]byte("ha\x00dold\x00fold/f\x00"), "old/f")
	f.Fuzz(func(t *testing.T, what []byte, target string) {
		home, sentinel := outside(t)
		if err := os.Symlink("../outside", filepath.Join(home, "tree", "old")); err != nil {
			t.Fatal(err)
		}
		var stats []*types.Stat
		for entry := range strings.SplitSeq(string(what), "\x00") {
			if entry == "" || len(stats) > 100 {
				continue
			}
			switch path := entry[1:]; entry[0] {
			case 'd':
				stats = append(stats, dir(path))
			case 'l':
				stats = append(stats, link(path, target))
			case 'h':
				stats = append(stats, &types.Stat{Path: path, Mode: 0o644, Linkname: target})
			default:
				stats = append(stats, file(path))
			}
		}
		_ = receiveTree(t.Context(), stream(t.Context(), stats...), filepath.Join(home, "tree"), nil)
		untouched(t, sentinel)
	})
}
