package selinux

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

const (
	processText = "system_u:system_r:container_t:s0"
	fileText    = "system_u:object_r:container_file_t:s0"
)

// policy is a directory like /etc/selinux.
func policy(t *testing.T, config, contexts string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "default/contexts"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"config": config, "default/contexts/lxc_contexts": contexts} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDefaults(t *testing.T) {
	const config, contexts = "# SELINUXTYPE=mls\nSELINUX=enforcing\n SELINUXTYPE = default \n", "process = \"" + processText + "\"\nfile = \"" + fileText + "\"\n"
	all := func(Label) bool { return true }
	p, f, err := defaults(policy(t, config, contexts), all)
	if err != nil || p.String() != processText || f.String() != fileText {
		t.Errorf("got %s, %s, %v", p, f, err)
	}
	for name, c := range map[string]struct {
		config, contexts string
		known            func(Label) bool
	}{
		"no policy":                        {"SELINUX=enforcing\n", contexts, all},
		"a policy elsewhere":               {"SELINUXTYPE=../../other\n", contexts, all},
		"a policy without containers":      {config, "", all},
		"a label the policy does not have": {config, contexts, func(l Label) bool { return l.Type != "container_t" }},
	} {
		if _, _, err := defaults(policy(t, c.config, c.contexts), c.known); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := defaults(policy(t, config, "process = \"x\"\n"), all); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a broken label: %v", err)
	}
}

func TestParse(t *testing.T) {
	for _, text := range []string{processText, "u:r:t", "u:r:t:s0-s0:c0.c1023", processText + ":c1,c2"} {
		if l, err := Parse(text); err != nil || l.String() != text {
			t.Errorf("%s became %s, %v", text, l, err)
		}
	}
	for _, text := range []string{"", "u:r", "u::t", "u:r:t:", "u:r:t t", "u:r:t\x00", strings.Repeat("u", 5000) + ":r:t"} {
		if l, err := Parse(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q became %s, %v", text, l, err)
		}
	}
}

func TestApply(t *testing.T) {
	process, _ := Parse(processText)
	file, _ := Parse(fileText)
	for _, c := range []struct {
		wishes             []string
		process, file      string
		processes, refused bool
	}{
		{wishes: []string{"disable"}, file: fileText + ":c1022,c1023"},
		{wishes: []string{"level:s0:c1,c2"}, process: processText + ":c1,c2", file: fileText + ":c1,c2"},
		{wishes: []string{"type:spc_t", "level:s0"}, process: "system_u:system_r:spc_t:s0", file: fileText},
		{wishes: []string{"user:u", "role:r", "filetype:f_t", "level:s0"}, process: "u:r:container_t:s0", file: "u:object_r:f_t:s0"},
		{wishes: []string{"type"}, refused: true},
		{wishes: []string{"type:"}, refused: true},
		{wishes: []string{"colour:red"}, refused: true},
	} {
		w, err := ParseWishes(c.wishes)
		if c.refused != errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", c.wishes, err)
		}
		if c.refused {
			continue
		}
		p, f := w.Apply(process, file, func(string) bool { t.Error("asked for categories"); return true })
		if p != c.process || f != c.file {
			t.Errorf("%v: %s, %s", c.wishes, p, f)
		}
	}
	var asked []string
	p, f := Wishes{}.Apply(process, file, func(level string) bool { asked = append(asked, level); return len(asked) == 3 })
	last := asked[len(asked)-1]
	if len(asked) != 3 || p != "system_u:system_r:container_t:"+last || f != "system_u:object_r:container_file_t:"+last {
		t.Errorf("%s, %s of %v", p, f, asked)
	}
	if Shared(f) != fileText {
		t.Errorf("%s is shared as %s", f, Shared(f))
	}
	plain, _ := Parse("u:r:container_t") // a policy without levels
	if p, f := (Wishes{}).Apply(plain, plain, func(string) bool { t.Error("asked"); return true }); p != plain.String() || f != p {
		t.Errorf("%s, %s", p, f)
	}
}

func TestServiceLabel(t *testing.T) {
	for own, want := range map[string]string{
		"unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023": "system_u:system_r:unconfined_t:s0-s0:c0.c1023",
		"staff_u:staff_r:staff_t:s0":                            "",
		"unconfined":                                            "", // AppArmor's
	} {
		if got := serviceLabel(own); got != want {
			t.Errorf("%s: %q, want %q", own, got, want)
		}
	}
}

// TestRelabel holds that everything below is labelled and nothing that links lead to. The kernel keeps the attribute
// without SELinux too.
func TestRelabel(t *testing.T) {
	privilege.NeedRoot(t)
	dir, err := os.MkdirTemp("/dev/shm", "teu-selinux-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	for _, d := range []string{in + "/a/b", out} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{in + "/a/b/f", out + "/f"} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []struct{ to, at string }{{out, in + "/dir"}, {out + "/f", in + "/file"}} {
		if err := os.Symlink(l.to, l.at); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(in+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Relabel(in, fileText); err != nil {
		t.Fatal(err)
	}
	label := func(path string) string {
		buf := make([]byte, 100)
		n, _ := unix.Lgetxattr(path, Attribute, buf)
		return strings.TrimRight(string(buf[:max(n, 0)]), "\x00")
	}
	for _, f := range []string{"", "/a", "/a/b", "/a/b/f", "/dir", "/file", "/fifo"} {
		if got := label(in + f); got != fileText {
			t.Errorf("%s is %q", f, got)
		}
	}
	for _, f := range []string{out, out + "/f"} {
		if label(f) == fileText {
			t.Errorf("%s was labelled", f)
		}
	}
	for _, host := range []string{"/", "/etc", "/usr/../etc", os.Getenv("HOME")} {
		if err := Relabel(host, fileText); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(processText, "process = \""+processText+"\"\n#x\n")
	f.Fuzz(func(t *testing.T, label, settings string) {
		if l, err := Parse(label); err == nil && l.String() != label {
			t.Errorf("%q became %q", label, l)
		}
		parseSettings(strings.NewReader(settings))
		ParseWishes(strings.Split(label, ","))
		Shared(label)
	})
}
