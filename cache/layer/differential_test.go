package layer_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/test/privilege"
	"golang.org/x/sys/unix"
)

// TestLikePeers unpacks images of several layers, some of which tell unpackers apart and some made at
// random, and compares what a container would see with what podman unpacks and, in a long run, docker.
func TestLikePeers(t *testing.T) {
	privilege.NeedRoot(t)
	images := oddImages()
	seeds := uint64(12)
	if os.Getenv("TEU_SOAK") != "" {
		seeds = 200
	}
	for seed := range seeds {
		images[fmt.Sprintf("random%02d", seed)] = randomImage(rand.New(rand.NewPCG(seed, 7)))
	}
	base := t.TempDir()
	archive := filepath.Join(base, "images.tar")
	must(t, os.WriteFile(archive, dockerArchive(t, images), 0o600))
	// What has a socket or a run root must have a short name.
	run, err := os.MkdirTemp("", "peer")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(run)) })
	peers := map[string]func(string) string{"podman": podman(t, base, run, archive)}
	if os.Getenv("TEU_SOAK") != "" {
		peers["docker"] = docker(t, base, run, archive)
	}
	s := open(t, filepath.Join(base, "layers"))
	for _, name := range slices.Sorted(maps.Keys(images)) {
		root, err := stacked(t, s, images[name]...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		ours := comparable(list(t, root, true))
		for peer, tree := range peers {
			want, got := comparable(list(t, tree(name), true)), ours
			if peer == "docker" {
				want, got = asDocker(want), asDocker(got)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: %s (-) and teu (+) differ: %s\nlayers:%s", name, peer, d, describeLayers(images[name]))
			}
		}
	}
}

// podman loads an archive and returns where it has unpacked the image of a name.
func podman(t *testing.T, base, run, archive string) func(name string) string {
	t.Helper()
	global := []string{"--root", filepath.Join(base, "podman"), "--runroot", run, "--storage-driver", "vfs"}
	call := func(args ...string) string {
		t.Helper()
		return output(t, exec.Command("podman", append(slices.Clone(global), args...)...))
	}
	call("load", "-q", "-i", archive)
	return func(name string) string { return call("image", "mount", "localhost/"+name+":latest") }
}

// docker is podman by a daemon that ends with the test.
func docker(t *testing.T, base, run, archive string) func(name string) string {
	t.Helper()
	root, host := filepath.Join(base, "docker"), "unix://"+filepath.Join(run, "docker.sock")
	daemon := exec.Command("dockerd", "--host", host, "--data-root", root, "--exec-root", filepath.Join(run, "exec"), "--pidfile", filepath.Join(run, "pid"),
		"--bridge", "none", "--iptables=false", "--ip-masq=false", "--storage-driver", "vfs")
	must(t, daemon.Start())
	t.Cleanup(func() {
		must(t, daemon.Process.Signal(unix.SIGTERM))
		_ = daemon.Wait()
	})
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if exec.Command("docker", "--host", host, "version").Run() == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	output(t, exec.Command("docker", "--host", host, "load", "-q", "-i", archive))
	return func(name string) string {
		layers := strings.Fields(output(t, exec.Command("docker", "--host", host, "image", "inspect", "-f", "{{range .RootFS.Layers}}{{println .}}{{end}}", "localhost/"+name)))
		chain := layers[0]
		for _, diffID := range layers[1:] {
			chain = digest.FromString(chain + " " + diffID).String()
		}
		id, err := os.ReadFile(filepath.Join(root, "image/vfs/layerdb/sha256", strings.TrimPrefix(chain, "sha256:"), "cache-id"))
		must(t, err)
		return filepath.Join(root, "vfs/dir", string(id))
	}
}

func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// comparable leaves out what nobody promises: the root's own attributes, the times of directories
// (each tool's unpacking of a layer above changes them) and which of two names came first.
func comparable(lines []string) (out []string) {
	for _, l := range lines {
		if strings.HasPrefix(l, ". ") {
			continue
		}
		fields := strings.Split(l, " ")
		if fields[0] == "d" || fields[0] == "o" {
			fields[0] = "d"
			fields = slices.DeleteFunc(fields, func(f string) bool { return strings.Count(f, ".") == 1 && len(f) > 10 && f[len(f)-10] == '.' })
		}
		l = strings.ReplaceAll(strings.Join(fields, " "), `["trusted.overlay.opaque=y"]`, "[]")
		out = append(out, l)
	}
	return out
}

// asDocker leaves out what docker's vfs driver cannot do: it loses attributes of users where it copies
// a layer, and directories that no layer has an entry for get the mode 0600, which only root can enter.
func asDocker(lines []string) (out []string) {
	user := regexp.MustCompile(`"user\.([^"\\]|\\.)*"`)
	for _, l := range lines {
		l = user.ReplaceAllString(l, "")
		out = append(out, strings.Replace(l, "d home/b 0600 ", "d home/b 0755 ", 1))
	}
	return out
}

// oddImages are those that tell unpackers apart.
func oddImages() map[string][][]file {
	tmp, home := d("tmp").mode(0o1777), d("home").mode(0o700).owner(1000, 1000)
	return map[string][][]file{
		"implicit":        {{tmp, home, f("home/old", "")}, {f("tmp/a", "x"), f("home/b/c", "y")}},
		"whiteouts":       {{d("d"), f("a", "1"), f("d/b", "2"), f("d/c", "3")}, {wh("a"), wh("d/b")}},
		"whiteoutdir":     {{d("d"), f("d/b", "2"), d("d/e"), f("d/e/f", "")}, {wh("d")}},
		"whiteoutrevive":  {{d("d").mode(0o700), f("d/old", "")}, {wh("d"), d("d"), f("d/new", "")}},
		"whiteoutnothing": {{f("a", "")}, {wh("b")}},
		"whiteoutinnew":   {{f("a", "")}, {d("d"), wh("d/x"), f("d/new", "")}, {f("z", "")}},
		"whiteoutinfirst": {{d("d"), wh("d/x"), f("d/new", "")}, {f("z", "")}},
		"whiteoutinmade":  {{f("d", "")}, {wh("d"), d("d"), wh("d/x"), f("d/new", "")}},
		"whiteoutingone":  {{d("d"), d("d/e"), f("d/e/o", "")}, {wh("d")}, {d("d"), d("d/e"), wh("d/e/o"), f("d/e/new", "")}},
		"whiteoutincopy":  {{d("usr"), d("usr/lib"), link("lib", "usr/lib")}, {f("lib/new", ""), d("q"), wh("q/x"), f("q/y", "")}},
		"whiteoutopaque":  {{d("d"), d("d/e"), f("d/e/o", "")}, {d("d"), opq("d"), wh("d/old"), d("d/e"), wh("d/e/o"), f("d/e/new", "")}},
		"opaque":          {{d("d"), f("d/old", ""), d("d/e"), f("d/e/old", "")}, {d("d"), opq("d"), f("d/new", "")}},
		"opaquelast":      {{d("d"), f("d/old", "")}, {d("d"), f("d/new", ""), opq("d")}},
		"opaqueimplicit":  {{d("d").mode(0o700), f("d/old", "")}, {opq("d"), f("d/new", "")}},
		"opaquetwice":     {{d("d"), f("d/1", "")}, {opq("d"), f("d/2", "")}, {opq("d"), f("d/3", "")}},
		"filetodir":       {{f("a", "x")}, {d("a"), f("a/b", "y")}},
		"dirtofile":       {{d("a"), f("a/b", "y")}, {f("a", "x")}},
		"dirtolink":       {{d("a"), f("a/b", "y"), d("t")}, {link("a", "t")}},
		"linktodir":       {{d("t"), f("t/x", ""), link("a", "t")}, {d("a"), f("a/b", "y")}},
		"linktofile":      {{f("t", "old"), link("a", "t")}, {f("a", "new")}},
		"usrmerge":        {{d("usr"), d("usr/lib").mode(0o711), link("lib", "usr/lib")}, {f("lib/new", "x")}},
		"usrmergeabs":     {{d("run"), d("var"), link("var/run", "/run")}, {f("var/run/pid", "1")}},
		"hardlinks":       {{f("a", "x").mode(0o4755), hard("b", "a").mode(0o4755), d("d"), hard("d/c", "a").mode(0o4755)}, {f("b", "other")}},
		"hardlinkbelow":   {{f("a", "x").mode(0o640).owner(5, 6)}, {hard("b", "a").mode(0o640).owner(5, 6)}},
		"modes":           {{f("s", "").mode(0o6755), d("t").mode(0o1777), f("n", "").mode(0), entry(tar.TypeFifo, "p").mode(0o622)}},
		"devices":         {{dev(tar.TypeChar, "null", 1, 3).mode(0o666), dev(tar.TypeBlock, "sda", 8, 1).owner(0, 6)}},
		"xattrs":          {{f("a", "x").xattr("user.k", "v\x00w"), d("d").xattr("user.dir", "v")}},
		"capability":      {{f("ping", "x").mode(0o755).xattr("security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}},
		"longnames":       {{f(long, "x"), d(long + "d"), f(long+"d/"+long, "y"), link("l", long+"d/"+long)}},
		"notutf8":         {{d("\x80"), f("\x80/\xc3", "x"), link("l\xff", "\xfe")}},
		"times":           {{f("old", "").at(time.Unix(1, 0)), f("nano", "").at(day.Add(123456789)), f("late", "").at(time.Unix(1<<32, 0))}},
		"bigids":          {{f("a", "").owner(70000, 4000000000)}},
		"dots":            {{d("./"), d("./d"), f("./d//a", "x"), f("d/./b", "y"), f("d/../c", "z")}},
	}
}

// randomImage returns layers as tools make them: whiteouts first, then entries, parents sometimes left out.
func randomImage(rnd *rand.Rand) [][]file {
	var layers [][]file
	seen := map[string]byte{} // what the image has: kind of tar entry
	name := func() string {
		p := string(rune('a' + rnd.IntN(4)))
		for range rnd.IntN(3) {
			p += "/" + string(rune('a'+rnd.IntN(4)))
		}
		return p
	}
	for n := range 2 + rnd.IntN(3) {
		g := &layerMaker{rnd: rnd, image: seen, here: map[string]byte{}}
		for range 3 * min(n, 1) {
			g.hide(name())
		}
		for range 12 {
			g.add(name())
		}
		layers = append(layers, g.files)
	}
	return layers
}

type layerMaker struct {
	rnd         *rand.Rand
	image, here map[string]byte
	files       []file
}

// forget drops what lies at p and below.
func (g *layerMaker) forget(p string, itself bool) {
	for q := range g.image {
		if itself && q == p || strings.HasPrefix(q, p+"/") {
			delete(g.image, q)
		}
	}
}

// has says whether this layer has entries at p or below.
func (g *layerMaker) has(p string) bool {
	for q := range g.here {
		if q == p || strings.HasPrefix(q, p+"/") {
			return true
		}
	}
	return false
}

// hide writes a whiteout or an opaque marker for something of a layer below.
func (g *layerMaker) hide(p string) {
	kind, ok := g.image[p]
	if g.has(p) {
		return // what a layer hides of itself is the zoo's
	}
	switch {
	case !ok:
	case kind == tar.TypeDir && g.rnd.IntN(2) == 0:
		g.files = append(g.files, d(p), opq(p))
		g.here[p] = tar.TypeDir
		g.forget(p, false)
	default:
		g.files = append(g.files, wh(p))
		g.forget(p, true)
	}
}

// add writes an entry and, mostly, its parents.
func (g *layerMaker) add(p string) {
	for i, c := range p {
		if c != '/' {
			continue
		}
		parent := p[:i]
		if kind, ok := g.image[parent]; ok && kind != tar.TypeDir {
			return // what is no directory here would be refused
		} else if !ok || g.rnd.IntN(2) == 0 {
			g.put(d(parent).mode(int64(0o700|g.rnd.IntN(0o100))).owner(g.rnd.IntN(3), 0))
		}
	}
	mode := int64(g.rnd.IntN(0o10000))
	switch g.rnd.IntN(8) {
	case 0, 1:
		g.put(d(p).mode(mode | 0o700))
	case 2:
		g.put(link(p, []string{"../x", "/a/b", "c"}[g.rnd.IntN(3)]))
	case 3:
		for _, q := range slices.Sorted(maps.Keys(g.here)) {
			if g.here[q] == tar.TypeReg && q != p && !strings.HasPrefix(q, p+"/") {
				e := g.entry(q) // of one inode, as tar writes it; what else would count differs
				e.Name, e.Linkname, e.Typeflag, e.Size, e.content = p, q, tar.TypeLink, 0, ""
				g.put(e)
				return
			}
		}
	case 4:
		g.put(f(p, "with attributes").xattr("user.x", p).mode(mode))
	default:
		g.put(f(p, strings.Repeat(p, g.rnd.IntN(30))).mode(mode).owner(g.rnd.IntN(5), g.rnd.IntN(5)))
	}
}

func (g *layerMaker) put(e file) {
	p, kind := e.Name, e.Typeflag
	if kind == tar.TypeLink {
		kind = tar.TypeReg
	}
	if g.here[p] != 0 || kind != tar.TypeDir && g.has(p) {
		return // podman refuses two entries of one name; the zoo has these
	}
	if kind != tar.TypeDir {
		g.forget(p, false)
	}
	g.here[p], g.image[p] = kind, kind
	g.files = append(g.files, e)
}

// entry returns what this layer has at p.
func (g *layerMaker) entry(p string) file {
	return g.files[slices.IndexFunc(g.files, func(e file) bool { return e.Name == p })]
}

// dockerArchive writes images as docker save did before OCI.
func dockerArchive(t *testing.T, images map[string][][]file) []byte {
	t.Helper()
	var entries []file
	type item struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []item
	written := map[string]bool{}
	for name, layers := range images {
		it := item{RepoTags: []string{"localhost/" + name + ":latest"}}
		var diffIDs []string
		for _, files := range layers {
			data := makeTar(t, files...)
			id := digest.FromBytes(data)
			path := id.Encoded() + ".tar"
			if !written[path] {
				entries = append(entries, f(path, string(data)))
				written[path] = true
			}
			it.Layers, diffIDs = append(it.Layers, path), append(diffIDs, id.String())
		}
		config, err := json.Marshal(map[string]any{
			"architecture": "amd64", "os": "linux", "created": day.Format(time.RFC3339), "config": map[string]any{"Cmd": []string{name}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
		})
		must(t, err)
		it.Config = digest.FromBytes(config).Encoded() + ".json"
		entries = append(entries, f(it.Config, string(config)))
		manifest = append(manifest, it)
	}
	data, err := json.Marshal(manifest)
	must(t, err)
	return makeTar(t, append(entries, f("manifest.json", string(data)))...)
}

func describeLayers(layers [][]file) string {
	var b bytes.Buffer
	for i, files := range layers {
		fmt.Fprintf(&b, "\n%d:", i)
		for _, e := range files {
			fmt.Fprintf(&b, " %c%s", e.Typeflag, e.Name)
			if e.Linkname != "" {
				fmt.Fprintf(&b, "->%s", e.Linkname)
			}
		}
	}
	return b.String()
}
