package differential

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

// A sample is one case of the corpus, laid out on disk.
type sample struct {
	name  string
	dir   string // the context
	flags []string
	fails string // in teu's message; "" if the build must succeed
	url   string // the context instead of dir
}

// fileTime is what every file of a context was changed last, unless its setup.sh says otherwise.
var fileTime = time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)

// readCorpus lays the archives that match pattern out below dir; words are replaced in what
// describes a case.
func readCorpus(t *testing.T, pattern, dir string, words *strings.Replacer) []*sample {
	t.Helper()
	archives, err := filepath.Glob(pattern)
	if err != nil || len(archives) == 0 {
		t.Fatalf("no corpus at %s: %v", pattern, err)
	}
	var list []*sample
	for _, archive := range archives {
		a, err := txtar.ParseFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		subject := strings.TrimSuffix(filepath.Base(archive), ".txtar")
		known := map[string]*sample{}
		for _, f := range a.Files {
			name, file, ok := strings.Cut(f.Name, "/")
			if !ok {
				t.Fatalf("%s: %s belongs to no case", archive, f.Name)
			}
			s := known[name]
			if s == nil {
				s = &sample{name: subject + "/" + name, dir: filepath.Join(dir, subject, name)}
				known[name] = s
				list = append(list, s)
			}
			s.add(t, file, f.Data, words)
		}
	}
	for _, s := range list {
		s.finish(t)
	}
	return list
}

func (s *sample) add(t *testing.T, file string, data []byte, words *strings.Replacer) {
	t.Helper()
	switch file {
	case "flags":
		s.flags = append(s.flags, strings.Split(strings.TrimSpace(words.Replace(string(data))), "\n")...)
		return
	case "context":
		s.url = strings.TrimSpace(words.Replace(string(data)))
		return
	case "error":
		s.fails = strings.TrimSpace(string(data))
		return
	case "setup.sh":
		data = []byte(words.Replace(string(data)))
	}
	if strings.Contains(filepath.Base(file), "Dockerfile") {
		data = []byte(words.Replace(string(data)))
	}
	path := filepath.Join(s.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// finish runs setup.sh, and gives everything it did not date itself the same time.
func (s *sample) finish(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	began := time.Now().Add(-time.Hour)
	script := filepath.Join(s.dir, "setup.sh")
	if _, err := os.Stat(script); err == nil {
		cmd := exec.Command("sh", "-eu", "setup.sh")
		cmd.Dir = s.dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: setup.sh: %v\n%s", s.name, err, out)
		}
		if err := os.Remove(script); err != nil {
			t.Fatal(err)
		}
	}
	var fresh []string
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if fi.ModTime().After(began) {
			fresh = append(fresh, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ts := unix.NsecToTimespec(fileTime.UnixNano())
	for _, path := range fresh {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}

// hasEpoch says whether SOURCE_DATE_EPOCH is given, here or by the Dockerfile.
func (s *sample) hasEpoch() bool {
	text, _ := os.ReadFile(filepath.Join(s.dir, "Dockerfile"))
	return strings.Contains(strings.Join(s.flags, " ")+string(text), "SOURCE_DATE_EPOCH")
}

// buildctl translates the flags into those of buildctl.
func (s *sample) buildctl() ([]string, error) {
	args := []string{"--frontend", "dockerfile.v0"}
	if s.url != "" {
		args = append(args, "--opt", "context="+s.url)
	} else {
		args = append(args, "--local", "context="+s.dir)
	}
	file := "Dockerfile"
	var hosts, ulimits []string
	for _, f := range s.flags {
		name, value, _ := strings.Cut(strings.TrimPrefix(f, "--"), "=")
		switch name {
		case "build-arg", "label":
			args = append(args, "--opt", name+":"+value)
		case "target", "platform", "shm-size":
			args = append(args, "--opt", name+"="+value)
		case "network":
			args = append(args, "--opt", "force-network-mode="+value)
		case "secret", "allow":
			args = append(args, "--"+name, value)
		case "file":
			file = value
		case "add-host":
			hosts = append(hosts, value)
		case "ulimit":
			ulimits = append(ulimits, value)
		case "build-context":
			id, dir, _ := strings.Cut(value, "=")
			if strings.Contains(dir, "://") {
				args = append(args, "--opt", "context:"+value)
			} else {
				args = append(args, "--opt", "context:"+id+"=local:"+id, "--local", id+"="+filepath.Join(s.dir, dir))
			}
		default:
			return nil, fmt.Errorf("flag %s has no translation", f)
		}
	}
	for opt, list := range map[string][]string{"add-hosts": hosts, "ulimit": ulimits} {
		if list != nil {
			args = append(args, "--opt", opt+"="+strings.Join(list, ","))
		}
	}
	if s.url != "" {
		if file != "Dockerfile" {
			args = append(args, "--opt", "filename="+file)
		}
		return args, nil
	}
	dir, base := filepath.Split(file)
	return append(args, "--opt", "filename="+base, "--local", "dockerfile="+filepath.Join(s.dir, dir)), nil
}
