package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

const (
	contextFiles = 10000
	imageNote    = "buildctl exports the image to its own store. docker is Debian's, with its classic builder. buildah, which podman build is too, isolates by chroot."
)

// manyFiles makes a context of 10,000 files and returns it, and what edits one of them.
func (s *builders) manyFiles() (dir string, edit func() error, err error) {
	dir = filepath.Join(s.b.dir, "ctx")
	for i := range contextFiles {
		if err := writeFile(filepath.Join(dir, fmt.Sprintf("src/d%02d/f%04d", i/100, i)), fmt.Sprintf("file %d\n", i)); err != nil {
			return "", nil, err
		}
	}
	n := 0
	edit = func() error {
		n++
		return writeFile(filepath.Join(dir, "src/d50/f5000"), fmt.Sprintf("edit %d\n", n))
	}
	return dir, edit, writeFile(filepath.Join(dir, "Dockerfile"), "FROM "+s.registry+"/base\nCOPY src /src\nRUN true\n")
}

// measureBuild takes the time of a build in which nothing changed.
func measureBuild(ctx context.Context, s *builders) error {
	b := s.b
	dir, _, err := s.manyFiles()
	if err != nil {
		return err
	}
	s.race(ctx, "Build, nothing changed, context of 10,000 files", "`FROM base`, `COPY src /src`, `RUN true`; the client's whole process, daemons warm. "+imageNote,
		1, b.rounds, s.contenders(buildRace{dir: dir}))
	return nil
}

// measureBuildEdit takes the time after one file of 10,000 was edited.
func measureBuildEdit(ctx context.Context, s *builders) error {
	b := s.b
	dir, edit, err := s.manyFiles()
	if err != nil {
		return err
	}
	s.race(ctx, "Build, one file of 10,000 edited", "COPY and the RUN behind it run again. "+imageNote, 1, b.few(), s.contenders(buildRace{dir: dir, prepare: edit}))
	s.race(ctx, "Build and push, one file of 10,000 edited", "To distribution's registry on loopback. "+imageNote, 1, b.few(), s.contenders(buildRace{dir: dir, prepare: edit, push: true}))
	return nil
}

// measureBuildNoCache takes the time of a build that runs every step; the base is there.
func measureBuildNoCache(ctx context.Context, s *builders) error {
	b := s.b
	dir, edit, err := s.manyFiles()
	if err != nil {
		return err
	}
	s.race(ctx, "Build of 10,000 files, --no-cache", "The base image is there. "+imageNote, 1, b.few(), s.contenders(buildRace{dir: dir, noCache: true}))
	// An edit, as a layer that was pushed would not be pushed again.
	s.race(ctx, "Build and push of 10,000 files, --no-cache", "The base image is there. "+imageNote, 1, b.few(),
		s.contenders(buildRace{dir: dir, noCache: true, prepare: edit, push: true}))
	return nil
}

// few is the number of rounds of figures that take seconds.
func (b *bench) few() int { return max(1, min(5, b.rounds/4)) }

// measureBuildRuns takes the time of twenty small commands.
func measureBuildRuns(ctx context.Context, s *builders) error {
	b := s.b
	dir := filepath.Join(b.dir, "runs")
	text := "FROM " + s.registry + "/base\n"
	for i := range 20 {
		text += fmt.Sprintf("RUN echo %d >/f%d\n", i, i)
	}
	if err := writeFile(filepath.Join(dir, "Dockerfile"), text); err != nil {
		return err
	}
	r := buildRace{dir: dir, noCache: true}
	s.race(ctx, "Twenty small RUNs, --no-cache, own network", "Each step has a network of its own: teu's has a way out; docker's, `--network none`, has not. BuildKit has no such network without CNI plugins.",
		1, b.few(), []contender{s.teuBuild(r), s.dockerBuild(r)})
	r.network = "host"
	s.race(ctx, "Twenty small RUNs, --no-cache, network of the host", imageNote, 1, b.few(), s.contenders(r))
	return nil
}

// measureBuildStages builds a program in one stage, takes it into another beside steps that do not wait for it.
func measureBuildStages(ctx context.Context, s *builders) error {
	b := s.b
	if err := s.makeGo(ctx); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "stages")
	files := map[string]string{
		"go.mod":  "module app\n\ngo 1.24\n",
		"main.go": "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"built\") }\n",
		"Dockerfile": "FROM " + s.registry + "/go AS build\nWORKDIR /app\nCOPY go.mod main.go ./\nRUN CGO_ENABLED=0 go build -o /out/app .\n" +
			"FROM " + s.registry + "/base AS data\nRUN seq 1 200000 >/data\n" +
			"FROM " + s.registry + "/base\nCOPY --from=data /data /data\nCOPY --from=build /out/app /app\nRUN /app\n",
	}
	for name, text := range files {
		if err := writeFile(filepath.Join(dir, name), text); err != nil {
			return err
		}
	}
	r := buildRace{dir: dir, noCache: true}
	floor, err := s.floorOfStages(ctx, dir)
	if err != nil {
		return err
	}
	s.race(ctx, "Build of a Go program in stages, --no-cache", "The standard library's packages are compiled as well. "+
		"The floor is the commands of the RUNs alone, in a chroot on an overlay. "+imageNote, 1, b.few(), append(s.contenders(r), floor))
	r.noCache = false
	s.race(ctx, "Build of a Go program in stages, nothing changed", imageNote, 1, b.rounds/2, s.contenders(r))
	return nil
}

// floorOfStages runs what the RUNs of that build run, with nothing around them. It makes no image.
func (s *builders) floorOfStages(ctx context.Context, dir string) (contender, error) {
	floor, image := filepath.Join(s.b.dir, "floor"), filepath.Join(s.b.dir, "floor-image")
	link := `mkdir -p "$2/usr/local" && cp -al "$1/busybox/." "$2" && cp -al "$1/go-image/go" "$2/usr/local/"`
	if err := s.b.must(ctx, "sh", "-c", link, "sh", s.b.dir, image); err != nil {
		return contender{}, err
	}
	fill := `rm -rf "$1"; mkdir -p "$1/upper/app" "$1/upper/tmp" "$1/upper/out" "$1/work" "$1/root"; cp "$2/go.mod" "$2/main.go" "$1/upper/app/"`
	script := `set -e; root=$1/root chroot=$(command -v chroot)
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$root"; mount -t proc proc "$root/proc"; mount --bind /dev "$root/dev"
inside() { env -i PATH=/usr/local/go/bin:/bin HOME=/tmp GOCACHE=/tmp/cache GOFLAGS=-buildvcs=false GOTOOLCHAIN=local CGO_ENABLED=0 "$chroot" "$root" sh -c "$1"; }
inside "seq 1 200000 >/data" & inside "cd /app && go build -o /out/app ."; wait $!; inside /out/app`
	return contender{
		name: "floor: the commands in a chroot", noMemory: true,
		prepare: func() error { return s.b.must(ctx, "sh", "-c", fill, "sh", floor, dir) },
		args:    []string{"unshare", "-m", "sh", "-c", script, "sh", floor, image},
	}, nil
}

// measureBuildC builds Lua as its users do: compiled and installed in one stage, its manual packed in another, both taken into a
// third. Most of its time is the compiler's too, but it has as many steps as such files have.
func measureBuildC(ctx context.Context, s *builders) error {
	b := s.b
	gcc := filepath.Join(b.dir, "gcc")
	if err := writeFile(filepath.Join(gcc, "Dockerfile"), "FROM scratch\nADD debian-gcc.tar /\n"); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "lua")
	script := `ln "$1/debian-gcc.tar" "$2/" 2>/dev/null || cp "$1/debian-gcc.tar" "$2/"; mkdir "$3" && tar -xf "$1/lua.tar.gz" -C "$3" --strip-components=1`
	if err := b.must(ctx, "sh", "-ec", script, "sh", b.peers, gcc, dir); err != nil {
		return err
	}
	if err := b.must(ctx, b.teu, "build", "-q", "-t", s.registry+"/gcc", "--push", gcc); err != nil {
		return err
	}
	text := `FROM ` + s.registry + `/gcc AS build
WORKDIR /src
COPY Makefile ./
COPY src src
COPY doc doc
RUN make -j2 posix MYLDFLAGS=-static
RUN make test
RUN make install INSTALL_TOP=/out && strip /out/bin/lua /out/bin/luac

FROM ` + s.registry + `/base AS manual
COPY doc /manual
RUN gzip -9 /manual/*.html /manual/*.1

FROM ` + s.registry + `/base
COPY --from=build /out/bin /usr/local/bin
COPY --from=manual /manual /usr/local/share/doc/lua
RUN lua -e 'assert(_VERSION == "Lua 5.4")'
CMD ["lua"]
`
	if err := writeFile(filepath.Join(dir, "Dockerfile"), text); err != nil {
		return err
	}
	r := buildRace{dir: dir, noCache: true}
	s.race(ctx, "Build of Lua in three stages, --no-cache", "Compiled by gcc on Debian, installed, tested, its manual packed. "+imageNote, 1, b.few(), s.contenders(r))
	r.noCache = false
	s.race(ctx, "Build of Lua in three stages, nothing changed", imageNote, 1, b.rounds/2, s.contenders(r))
	return nil
}

// makeGo pushes REGISTRY/go: busybox and what of this machine's Go toolchain compiles programs.
func (s *builders) makeGo(ctx context.Context) error {
	dir := filepath.Join(s.b.dir, "go-image")
	script := `set -e; root=$(go env GOROOT); mkdir -p "$1/go/pkg/tool" "$1/go/bin"; cp "$root/bin/go" "$1/go/bin/"; cp -r "$root/go.env" "$root/VERSION" "$1/go/"
mkdir "$1/go/pkg/tool/linux_amd64"; for t in asm compile link; do cp "$root/pkg/tool/linux_amd64/$t" "$1/go/pkg/tool/linux_amd64/"; done
cp -r "$root/pkg/include" "$1/go/pkg/"; cp -r "$root/src" "$1/go/"; rm -rf "$1/go/src/cmd"; find "$1/go/src" -name testdata -prune -exec rm -r {} +`
	if err := s.b.must(ctx, "sh", "-c", script, "sh", dir); err != nil {
		return err
	}
	text := "FROM " + s.registry + "/base\nCOPY go /usr/local/go\nENV PATH=/usr/local/go/bin:/bin HOME=/tmp GOCACHE=/tmp/cache GOFLAGS=-buildvcs=false GOTOOLCHAIN=local\n"
	if err := writeFile(filepath.Join(dir, "Dockerfile"), text); err != nil {
		return err
	}
	return s.b.must(ctx, s.b.teu, "build", "-q", "-t", s.registry+"/go", "--push", dir)
}

// measureBuildCopy copies 500 MB in 35,000 files, and pushes the layer.
func measureBuildCopy(ctx context.Context, s *builders) error {
	b := s.b
	dir := filepath.Join(b.dir, "big")
	if err := bigTree(filepath.Join(dir, "tree")); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "Dockerfile"), "FROM "+s.registry+"/base\nCOPY tree /tree\n"); err != nil {
		return err
	}
	n := 0
	edit := func() error {
		n++
		return writeFile(filepath.Join(dir, "tree/edit"), fmt.Sprintf("edit %d\n", n))
	}
	floor := filepath.Join(b.dir, "floor")
	list := append(s.roomy(ctx, s.contenders(buildRace{dir: dir, prepare: edit})), contender{
		name: "floor: cp -a and sha256sum", noMemory: true,
		prepare: func() error { return os.RemoveAll(floor) },
		args:    []string{"sh", "-c", fmt.Sprintf("cp -a %s/tree %s && find %s -type f -exec sha256sum {} + >/dev/null", dir, floor, floor)},
	})
	s.race(ctx, "COPY of 500 MB in 35,000 files", "One file was edited, so that the COPY runs. "+imageNote, 1, 2, list)
	if err := os.RemoveAll(floor); err != nil {
		return err
	}
	return s.pushCopy(ctx, dir, edit)
}

// roomy lets each builder give up, untimed, what it built before: the disk does not hold all rounds of large builds.
// Their base images and what they keep of the context stay. buildah is left out: it takes a minute for each.
func (s *builders) roomy(ctx context.Context, list []contender) []contender {
	prune := map[string][]string{
		"teu build":      {s.b.teu, "system", "prune", "--force"},
		"buildctl build": {filepath.Join(s.b.peers, "buildctl"), "--addr", s.socket, "prune", "--filter", "description~=COPY"},
		"docker build":   {"docker", "image", "prune", "--force"},
	}
	list = slices.DeleteFunc(list, func(c contender) bool { return prune[c.name] == nil })
	for i, c := range list {
		args, prepare := prune[c.name], c.prepare
		list[i].prepare = func() error {
			if err := prepare(); err != nil {
				return err
			}
			return s.b.must(ctx, args[0], args[1:]...)
		}
	}
	return list
}

// pushCopy takes the time of the push of a layer that was never compressed before.
func (s *builders) pushCopy(ctx context.Context, dir string, edit func() error) error {
	plain, pushed := s.roomy(ctx, s.contenders(buildRace{dir: dir, prepare: edit, plain: true})), s.contenders(buildRace{dir: dir, push: true})
	pushed = pushed[:len(plain)] // without buildah, the last
	for i, c := range plain {
		pushed[i].prepare = func() error {
			if err := c.prepare(); err != nil {
				return err
			}
			return s.b.must(ctx, c.args[0], c.args[1:]...)
		}
	}
	s.race(ctx, "Push of that layer", "All steps were built before, and no layer compressed; the same command with a push, to distribution's registry on loopback. "+imageNote, 0, 2, pushed)
	return nil
}

// bigTree writes 35,000 files, 500 MB, half of which compresses well.
func bigTree(dir string) error {
	random := rand.NewChaCha8([32]byte{7})
	buf := make([]byte, 14300)
	for i := range 35000 {
		random.Read(buf[:len(buf)/2])
		name := filepath.Join(dir, fmt.Sprintf("d%03d/f%05d", i/100, i))
		if err := writeFile(name, string(buf)); err != nil {
			return err
		}
	}
	return nil
}

// measureBuildCI is a build on a machine with nothing on it but a shared cache, after one file was edited.
func measureBuildCI(ctx context.Context, s *builders) error {
	b := s.b
	dir, edit, err := s.manyFiles()
	if err != nil {
		return err
	}
	text := "FROM " + s.registry + "/base\nRUN seq 1 400000 >/deps && sleep 1\nCOPY src /src\nRUN cat /src/*/* >/out\n"
	if err := writeFile(filepath.Join(dir, "Dockerfile"), text); err != nil {
		return err
	}
	cache := s.registry + "/cache-"
	r := buildRace{
		dir: dir, push: true,
		teu:      []string{"--cache-from", "type=registry,ref=" + cache + "teu", "--cache-to", "type=registry,ref=" + cache + "teu"},
		buildkit: []string{"--import-cache", "type=registry,registry.insecure=true,ref=" + cache + "buildkit", "--export-cache", "type=registry,registry.insecure=true,mode=max,ref=" + cache + "buildkit"},
	}
	teu, buildkit := s.teuBuild(r), s.buildctl(r)
	teu.prepare = func() error {
		if err := b.must(ctx, b.teu, "system", "reset", "--force"); err != nil {
			return err
		}
		return edit()
	}
	if s.missing["buildkit"] == nil {
		buildkit.prepare = func() error {
			if err := s.b.must(ctx, filepath.Join(b.peers, "buildctl"), "--addr", s.socket, "prune", "--all"); err != nil {
				return err
			}
			return edit()
		}
	}
	s.race(ctx, "CI: empty machine, warm registry cache, one file edited, build and push", "The cache is read and written; BuildKit's with mode=max. Nothing is in either store, buildkitd is running.", 1, b.few(), []contender{teu, buildkit})
	return nil
}
