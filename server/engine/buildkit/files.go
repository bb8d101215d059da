package buildkit

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc/metadata"

	"github.com/teu-dev/teu/build/solver"
)

// local brings what a local:// source selects of the client's files.
func (c *caller) local(ctx context.Context, out *solver.Console, name string, attrs map[string]string) (string, error) {
	if c.id == "" {
		return "", errNoSession
	}
	s, err := c.of(ctx, attrs[pb.AttrLocalSessionID]) // another one's, if the definition is another build's
	if err != nil {
		return "", err
	}
	if !s.Supports(session.MethodURL(filesync.FileSync_ServiceDesc.ServiceName, "diffcopy")) {
		return "", fmt.Errorf("the client offers no directories: %w", errdefs.ErrNotFound)
	}
	key := ""
	if s.SharedKey() != "" {
		key = fmt.Sprintf("%q %q %q", name, attrs[pb.AttrSharedKeyHint], s.SharedKey())
	}
	dir, release, err := c.builder.Mirror(key, "local source for "+name, func(dir string) error { return receive(ctx, s, name, attrs, dir, transferring(out, name)) })
	if err != nil {
		return "", err
	}
	c.keep(release)
	return dir, nil
}

// transferring shows on c how much has come.
func transferring(c *solver.Console, name string) func(bytes int, last bool) {
	const often = 100 * time.Millisecond
	var told time.Time
	return func(bytes int, last bool) {
		if now := time.Now(); last || now.Sub(told) > often {
			told = now
			c.Status(solver.Status{ID: "transferring " + name + ":", Current: int64(bytes), Done: last})
		}
	}
}

// receive makes dir like the client's files. Those that are there with the same size, times and rights do
// not come again.
func receive(ctx context.Context, s session.Caller, name string, attrs map[string]string, dir string, progress func(bytes int, last bool)) error {
	md := metadata.MD{"dir-name": {name}}
	for key, attr := range map[string]string{
		"include-patterns": pb.AttrIncludePatterns, "exclude-patterns": pb.AttrExcludePatterns, "followpaths": pb.AttrFollowPaths,
	} {
		var list []string
		if text := attrs[attr]; text != "" {
			if err := json.Unmarshal([]byte(text), &list); err != nil {
				return fmt.Errorf("attribute %s: %w: %w", attr, errdefs.ErrInvalidArgument, err)
			}
		}
		setList(md, key, list)
	}
	setList(md, "dir-name", []string{name})
	ctx, cancel := context.WithCancel(s.Context(metadata.NewOutgoingContext(ctx, md)))
	defer cancel()
	stream, err := filesync.NewFileSyncClient(s.Conn()).DiffCopy(ctx)
	if err != nil {
		return err
	}
	if err := receiveTree(ctx, stream, dir, progress); err != nil {
		return fmt.Errorf("transferring: %w", err)
	}
	return stream.CloseSend()
}

// receiveTree makes dir what a stream of fsutil's packets says. Nothing outside of it is touched, whatever
// the paths and links in the stream are.
func receiveTree(ctx context.Context, stream fsutil.Stream, dir string, progress func(bytes int, last bool)) error {
	opened, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	root := fsutil.NewRoot(opened)
	defer root.Close()
	if err := distrust(opened); err != nil {
		return err
	}
	// What is neither file, directory nor link is left where it is.
	plain := func(_ string, st *types.Stat) bool {
		return fs.FileMode(st.Mode)&(fs.ModeDevice|fs.ModeSocket|fs.ModeNamedPipe|fs.ModeIrregular) == 0
	}
	return fsutil.ReceiveRoot(ctx, &limited{Stream: stream, left: maxFiles}, root, fsutil.ReceiveOpt{Filter: plain, ProgressCb: progress})
}

// setList sets a value of a call's metadata, which is ASCII.
func setList(md metadata.MD, key string, list []string) {
	coded := make([]string, len(list))
	plain := true
	for i, text := range list {
		coded[i] = url.QueryEscape(text)
		plain = plain && strings.IndexFunc(text, func(r rune) bool { return r > 0x7f }) < 0
	}
	switch {
	case len(list) == 0:
	case plain:
		md[key] = list
	default:
		md[key], md[key+"-encoded"] = coded, []string{"1"}
	}
}

// distrust removes the files whose time is in whole seconds. It was set by somebody, such as an unpacker of
// archives, and says nothing about whether two files are the same, as all that a client tells of one must.
func distrust(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil || fi.ModTime().Nanosecond() != 0 {
			return err
		}
		return root.Remove(path)
	})
}

// Limits of what a client sends.
const (
	maxFiles = 5_000_000
	maxPath  = 4096
)

// limited holds a stream of files to the limits.
type limited struct {
	fsutil.Stream
	left int // files
}

func (l *limited) RecvMsg(m any) error {
	if err := l.Stream.RecvMsg(m); err != nil {
		return err
	}
	p, ok := m.(*types.Packet)
	if !ok || p.Stat == nil {
		return nil
	}
	if l.left--; l.left < 0 {
		return fmt.Errorf("more than %d files: %w", maxFiles, errdefs.ErrResourceExhausted)
	}
	if len(p.Stat.Path) > maxPath || len(p.Stat.Linkname) > maxPath {
		return fmt.Errorf("a path of %d bytes: %w", max(len(p.Stat.Path), len(p.Stat.Linkname)), errdefs.ErrInvalidArgument)
	}
	return nil
}
