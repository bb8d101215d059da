package registry

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// disk is an ext4 file system in a file, which can lose its power.
type disk struct {
	t           *testing.T
	image, path string
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t, filepath.Join(t.TempDir(), "image"), t.TempDir()}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, 128<<20); err != nil {
		t.Fatal(err)
	}
	d.command("mkfs.ext4", "-q", "-F", d.image)
	d.mount()
	t.Cleanup(func() { exec.Command("umount", d.path).Run() })
	return d
}

func (d *disk) command(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// mount replays the journal, as after a boot. Nothing but fsync writes metadata: commit=300.
func (d *disk) mount() { d.command("mount", "-o", "loop,commit=300", d.image, d.path) }

// boot mounts a copy of what the disk has. The disk itself may still be mounted, and dead, in
// the mount namespaces of others.
func (d *disk) boot() {
	d.command("umount", d.path)
	next := filepath.Join(filepath.Dir(d.image), randomHex())
	d.command("cp", "--sparse=always", d.image, next)
	if err := os.Remove(d.image); err != nil {
		d.t.Fatal(err)
	}
	d.image = next
	d.mount()
}

// cut is what xfstests calls godown: EXT4_IOC_SHUTDOWN with NOLOGFLUSH. What is not in the
// journal or on the disk at this moment never will be.
func (d *disk) cut() {
	d.t.Helper()
	f, err := os.Open(d.path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	const shutdown, noLogFlush = 0x8004587d, 2
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush); err != nil {
		d.t.Fatalf("cutting the power: %v", err)
	}
}

// TestPowerCut cuts the power of the disk under load, again and again: what was acknowledged
// is there when it is mounted again, and nothing half-made is.
func TestPowerCut(t *testing.T) {
	privilege.NeedRoot(t)
	rounds := 8
	if os.Getenv("TEU_SOAK") != "" {
		rounds = 200
	}
	d := newDisk(t)
	root := filepath.Join(d.path, "registry")
	all := &acknowledged{}
	for round := range rounds {
		p := startProcess(t, root)
		var work sync.WaitGroup
		for worker := range 4 {
			work.Go(func() { pushUntilCut(p, all, fmt.Sprintf("%d-%d", round, worker)) })
		}
		time.Sleep(time.Duration(50+rand.IntN(150)) * time.Millisecond)
		all.await(t, round)
		d.cut()
		work.Wait()
		p.kill()
		d.boot()
	}
	if len(all.paths) < rounds {
		t.Errorf("only %d acknowledged requests in %d rounds: nothing was tested", len(all.paths), rounds)
	}
	checkTree(t, root)
	p := startProcess(t, root)
	for path, want := range all.paths {
		a := p.want(p.do("GET", path, nil), 200, "")
		if digest.FromBytes(a.body) != want {
			t.Errorf("%s came back different", path)
		}
	}
	p.kill()
	t.Logf("%d cuts, %d acknowledged", rounds, len(all.paths))
}

// pushUntilCut pushes small images until something is not acknowledged.
func pushUntilCut(p *process, all *acknowledged, who string) {
	for n := 0; ; n++ {
		repo := fmt.Sprintf("r%d", n%3)
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
		m.SchemaVersion = 2
		for i, b := range [][]byte{fmt.Appendf(nil, "shared %d", n/4), bytes.Repeat(fmt.Appendf(nil, "%s-%d ", who, n), 2000)} {
			d := digest.FromBytes(b)
			a, err := p.try("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), bytes.NewReader(b))
			if err != nil || a.status != 201 {
				return
			}
			all.add("/v2/"+repo+"/blobs/"+d.String(), d)
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(b))}
			if i == 0 {
				m.Config = desc
			} else {
				m.Layers = append(m.Layers, desc)
			}
		}
		b := encode(p.t, m)
		tag := fmt.Sprintf("%s-%d", who, n)
		a, err := p.try("PUT", "/v2/"+repo+"/manifests/"+tag, bytes.NewReader(b), "Content-Type", m.MediaType)
		if err != nil || a.status != 201 {
			return
		}
		all.add("/v2/"+repo+"/manifests/"+tag, digest.FromBytes(b))
	}
}
