package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var host = ocispec.Platform{OS: "linux", Architecture: "amd64"}

// fake answers the frontend: its files are in every source, its images are busybox.
type fake struct {
	files    map[string]string
	warnings []string
	asked    []string
	source   SourceInfo
	modes    []string
}

func (f *fake) Files(context.Context, *pb.Definition) (Files, error) { return fakeFiles(f.files), nil }

func (f *fake) ResolveImage(_ context.Context, name, ref string, o ImageOptions) (ImageConfig, error) {
	if strings.Contains(ref, "missing") {
		return ImageConfig{}, fmt.Errorf("%s: %w", ref, errdefs.ErrNotFound)
	}
	f.asked = append(f.asked, name)
	f.modes = append(f.modes, o.Mode)
	return ImageConfig{
		Ref: ref, Digest: "sha256:" + strings.Repeat("a", 64),
		Config: []byte(`{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["sh"],"OnBuild":["ENV built=on"]},"rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("b", 64) + `"]},"history":[{"created_by":"base"}]}`),
	}, nil
}

func (f *fake) DescribeSource(context.Context, string, *pb.SourceOp) (SourceInfo, error) {
	return f.source, nil
}

func (f *fake) Warn(w Warning) {
	f.warnings = append(f.warnings, fmt.Sprintf("%d: %s", w.Where.Start, w.Text))
}

type fakeFiles map[string]string

func (f fakeFiles) ReadFile(_ context.Context, path string, from, most int64) ([]byte, error) {
	s, ok := f[strings.TrimPrefix(path, "/")]
	if !ok {
		return nil, fs.ErrNotExist
	}
	s = s[min(int64(len(s)), from):]
	return []byte(s[:min(int64(len(s)), most)]), nil
}

func (f fakeFiles) Stat(context.Context, string) (FileInfo, error)      { return FileInfo{}, fs.ErrNotExist }
func (f fakeFiles) ReadDir(context.Context, string) ([]FileInfo, error) { return nil, nil }

func compile(t testing.TB, text string, attrs map[string]string) (*Result, *fake, error) {
	t.Helper()
	f := &fake{files: map[string]string{"Dockerfile": text}}
	for k, v := range attrs {
		if name, ok := strings.CutPrefix(k, "file:"); ok {
			f.files[name] = v
			delete(attrs, k)
		}
	}
	res, err := Compile(t.Context(), f, Options{Attrs: attrs, Host: host})
	return res, f, err
}

// ops returns the operations of a definition, without the last, which is its result.
func ops(t testing.TB, def *pb.Definition) []*pb.Op {
	t.Helper()
	var list []*pb.Op
	for _, b := range def.Def {
		op := &pb.Op{}
		if err := op.Unmarshal(b); err != nil {
			t.Fatal(err)
		}
		if op.Op != nil {
			list = append(list, op)
		}
	}
	return list
}

func kinds(t testing.TB, def *pb.Definition) string {
	var list []string
	for _, op := range ops(t, def) {
		list = append(list, strings.TrimPrefix(fmt.Sprintf("%T", op.Op), "*pb.Op_"))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestCompile(t *testing.T) {
	cases := map[string]struct {
		text  string
		attrs map[string]string
		want  string // kinds of operations
	}{
		"nothing at all":                      {text: "FROM scratch\nENV a=b\n", want: ""},
		"an image":                            {text: "FROM busybox\n", want: "Source"},
		"a command":                           {text: "FROM busybox\nRUN true\n", want: "Exec Source"},
		"link is a merge":                     {text: "FROM busybox\nCOPY --link a /b\n", want: "File Merge Source Source"},
		"a bind mount that is written to":     {text: "FROM busybox\nRUN --mount=type=bind,rw,target=/x true\n", want: "Exec Source Source"},
		"the syntax line":                     {text: "# syntax=docker/dockerfile:1\nFROM busybox\nRUN true\n", want: "Exec Source"},
		"the syntax line with everything":     {text: "#syntax=docker.io/docker/dockerfile:1.7-labs@sha256:" + strings.Repeat("0", 64) + "\nFROM busybox\n", want: "Source"},
		"the syntax line of a mirror":         {text: "# syntax=mirror.example:5000/hub/docker/dockerfile:1-labs\nFROM busybox\n", want: "Source"},
		"the syntax argument":                 {text: "FROM busybox\n", attrs: map[string]string{"build-arg:BUILDKIT_SYNTAX": "docker/dockerfile:1"}, want: "Source"},
		"only the stages of a target":         {text: "FROM busybox AS a\nRUN a\nFROM busybox AS b\nRUN b\nRUN b2\n", attrs: map[string]string{"target": "a"}, want: "Exec Source"},
		"a Dockerfile of another name":        {text: "nonsense", attrs: map[string]string{"filename": "x/other", "file:x/other": "FROM busybox\n"}, want: "Source"},
		"a named context instead of an image": {text: "FROM golang\nRUN true\n", attrs: map[string]string{"context:golang": "docker-image://busybox"}, want: "Exec Source"},
		"a named local context":               {text: "FROM busybox\nCOPY --from=src / /\n", attrs: map[string]string{"context:src": "local:src"}, want: "File Source Source"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			res, _, err := compile(t, c.text, c.attrs)
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Images) != 1 {
				t.Fatalf("got %d images", len(res.Images))
			}
			if got := kinds(t, res.Images[0].Definition); got != c.want {
				t.Errorf("got operations %q, want %q", got, c.want)
			}
		})
	}
}

func TestErrorsHaveAPlace(t *testing.T) {
	cases := map[string]struct {
		text, want string
		line       int
		is         error
	}{
		"unknown instruction": {"FROM busybox\n\nRUNN true\n", "unknown instruction: RUNN", 3, errdefs.ErrInvalidArgument},
		"almost the frontend": {"# syntax=example.com/notdocker/dockerfile:1\nFROM busybox\n", "not built in", 1, errdefs.ErrNotImplemented},
		"foreign frontend":    {"# syntax=example.com/other/frontend\nFROM busybox\n", "not built in", 1, errdefs.ErrNotImplemented},
		"missing image":       {"FROM busybox\nFROM missing/image\n", "missing/image", 2, errdefs.ErrNotFound},
		"unknown mount":       {"FROM busybox\nRUN true\nRUN --mount=type=nonsense true\n", "nonsense", 3, errdefs.ErrInvalidArgument},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, _, err := compile(t, c.text, nil)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want an error with a place", err)
			}
			if e.Where.Start != c.line || e.Where.File != "Dockerfile" || string(e.Where.Text) != c.text {
				t.Errorf("got place %s:%d, want line %d", e.Where.File, e.Where.Start, c.line)
			}
			if !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.is) {
				t.Errorf("got %v, want %q and %v", err, c.want, c.is)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	res, f, err := compile(t, `ARG SOURCE_DATE_EPOCH=1700000000
FROM busybox AS base
ENTRYPOINT ["a"]
FROM base
LABEL b=c
`, map[string]string{"label:from": "flag"})
	if err != nil {
		t.Fatal(err)
	}
	img := res.Images[0]
	if want := time.Unix(1700000000, 0); img.Epoch == nil || !img.Epoch.Equal(want) {
		t.Errorf("epoch is %v, want %v", img.Epoch, want)
	}
	var config struct {
		Config ocispec.ImageConfig `json:"config"`
	}
	if err := json.Unmarshal(img.Config, &config); err != nil {
		t.Fatal(err)
	}
	want := ocispec.ImageConfig{
		Env: []string{"PATH=/bin", "built=on"}, Entrypoint: []string{"a"}, Labels: map[string]string{"b": "c", "from": "flag"},
	}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if len(f.asked) != 1 || f.modes[0] != "default" {
		t.Errorf("asked for %q with %q, want one question", f.asked, f.modes)
	}
	if img.BaseConfig == nil {
		t.Error("no base config")
	}
}

func TestDockerignore(t *testing.T) {
	for _, name := range []string{".dockerignore", "Dockerfile.dockerignore"} {
		res, _, err := compile(t, "FROM scratch\nCOPY . /\n", map[string]string{"file:" + name: "# no\n*.o\n!keep.o\n"})
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range ops(t, res.Images[0].Definition) {
			if src := op.GetSource(); src != nil && src.Attrs["local.excludepatterns"] != `["*.o","!keep.o"]` {
				t.Errorf("%s: attributes of the context: %v", name, src.Attrs)
			}
		}
	}
}

func TestWarnings(t *testing.T) {
	_, f, err := compile(t, "from busybox AS x\nRUN true\nRun false\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(f.warnings, func(w string) bool { return strings.HasPrefix(w, "3: ConsistentInstructionCasing") }) {
		t.Errorf("got warnings %q", f.warnings)
	}
}

func TestQuestion(t *testing.T) {
	res, _, err := compile(t, "FROM busybox AS one\nFROM one AS two\n", map[string]string{"requestid": "frontend.targets"})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(res.Answer["result.json"]), `"name": "two"`) {
		t.Errorf("got %s", res.Answer["result.json"])
	}
}

// TestAskedBySource: a caller that names the frontend as the source of another one gets what the frontend was asked.
func TestAskedBySource(t *testing.T) {
	b := &fake{files: map[string]string{"Dockerfile": "FROM scratch\nLABEL a=b\n"}}
	asked := map[string]string{"source": "dockerfile.v0", "cmdline": "dockerfile.v0", "label:c": "d"}
	reply, err := Ask(t.Context(), b, Options{Attrs: asked, Host: host})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"label:c": "d"}; reply.Frontend != "dockerfile.v0" || !maps.Equal(reply.Attrs, want) || len(asked) != 3 {
		t.Errorf("got %s of %v", reply.Frontend, reply.Attrs)
	}
}

// TestVersion: the version of the language is one that clients can compare.
func TestVersion(t *testing.T) {
	if v := Version(); strings.Count(v, ".") != 2 || strings.Contains(v, "-") {
		t.Errorf("got %q", v)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("FROM busybox AS b\nARG a=${b:-c}\nRUN --mount=type=cache,target=/c,id=$a <<EOF\necho\nEOF\nCOPY --from=b --chmod=u+x --link a* /\n")
	f.Add("# syntax=docker/dockerfile:1\n# escape=`\nFROM --platform=$BUILDPLATFORM scratch\nADD --checksum=sha256:0 https://example.com/a.tar /\nONBUILD RUN x\nHEALTHCHECK CMD y\n")
	f.Fuzz(func(t *testing.T, text string) {
		res, _, err := compile(t, text, nil)
		if errdefs.IsInternal(err) {
			t.Fatal(err) // a panic of the frontend
		}
		if err == nil && len(res.Images) == 0 {
			t.Fatal("neither an error nor an image")
		}
	})
}

// TestEpochOfSources holds that SOURCE_DATE_EPOCH may be the time of a source.
func TestEpochOfSources(t *testing.T) {
	modified := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	commit := []byte("tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor a <a@b> 1600000000 +0000\ncommitter a <a@b> 1714979289 +0000\n\nm\n")
	for _, c := range []struct {
		name, text string
		source     SourceInfo
		want       time.Time
	}{
		{"a download", "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD http://h/f /\nFROM scratch\nCOPY x /\n", SourceInfo{Digest: "sha256:0", Modified: &modified}, modified},
		{"a commit", "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD http://h/r.git /\nFROM scratch\nCOPY x /\n", SourceInfo{Commit: "c", Object: commit}, modified},
		{"a directory", "ARG SOURCE_DATE_EPOCH=context\nFROM scratch\nCOPY x /\n", SourceInfo{}, time.Time{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{files: map[string]string{"Dockerfile": c.text}, source: c.source}
			res, err := Compile(t.Context(), f, Options{Host: host})
			if err != nil {
				t.Fatal(err)
			}
			var got time.Time
			if e := res.Images[0].Epoch; e != nil {
				got = *e
			}
			if !got.Equal(c.want) {
				t.Errorf("epoch is %v, want %v", got, c.want)
			}
		})
	}
}
