// Command bench measures teu against its peers in one run and writes docs/benchmarks.md.
//
// It wants root, the peers that bench/setup.sh installs, and a quiet machine. Every figure
// is taken in rounds, each tool once per round, so that all see the same weather; medians
// with the fastest and the slowest round are published, losses too.
//
//	go run ./bench -teu bin/teu -peers .cache/peers [-only run,pull,engine] [-write docs/benchmarks.md]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// bench is one run.
type bench struct {
	teu    string   // the binary
	peers  string   // directory of peers built from source
	dir    string   // on a journaled ext4 of its own, see disk.go
	env    []string // added to that of tools
	rounds int
	report *report

	daemonPID int // of the server that was started last
}

// figures are the measurements by name, in the order of the report.
var figures = []struct {
	name    string
	measure func(context.Context, *bench) error
}{
	{"run", measureRun},
	{"oci", measureOCI},
	{"exec", measureExec},
	{"storm", measureStorm},
	{"pull", measurePull},
	{"pullmemory", measurePullMemory},
	{"slowpull", inOwnNetwork(measureSlowPull)},
	{"push", measurePush},
	{"save", measureSave},
	{"zstd", measureZstd},
	{"manyimages", measureManyImages},
	{"build", withBuilders(measureBuild)},
	{"build-edit", withBuilders(measureBuildEdit)},
	{"build-nocache", withBuilders(measureBuildNoCache)},
	{"build-runs", withBuilders(measureBuildRuns)},
	{"build-stages", withBuilders(measureBuildStages)},
	{"build-lua", withBuilders(measureBuildC)},
	{"build-copy", withBuilders(measureBuildCopy)},
	{"build-ci", withBuilders(measureBuildCI)},
	{"registry", measureRegistry},
	{"registry-large", measureRegistryLarge},
	{"registry-many", measureRegistryMany},
	{"registry-s3", measureRegistryS3},
	{"live", measureLive},
	{"logs", measureLogs},
	{"ports", measurePorts},
	{"rootless", measureRootless},
	{"engine", measureEngine},
}

func names() string {
	var list []string
	for _, f := range figures {
		list = append(list, f.name)
	}
	return strings.Join(list, ", ")
}

func main() {
	teu := flag.String("teu", "bin/teu", "teu's binary")
	peers := flag.String("peers", ".cache/peers", "directory of peers built from source")
	only := flag.String("only", "", "comma-separated figures to take, of "+names())
	rounds := flag.Int("rounds", 20, "rounds of the short figures; long ones take fewer")
	write := flag.String("write", "", "file to write the report to")
	server := flag.String("serve", "", "be the server of the figures ports and rootless, on an address")
	client := flag.String("rates", "", "be the client of the figure rootless, of a server's URL")
	plain := flag.String("sendfile", "", "be a server of files by sendfile(2), on an address")
	flag.Parse()
	if *plain != "" {
		fmt.Fprintln(os.Stderr, "bench:", serveSendfile(*plain))
		os.Exit(1)
	}
	if *client != "" {
		if err := rates(*client); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if *server != "" {
		fmt.Fprintln(os.Stderr, "bench:", serve(*server))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *teu, *peers, *only, *write, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, teu, peers, only, write string, rounds int) (err error) {
	b := &bench{rounds: rounds}
	installed, err := os.MkdirTemp("", "teu-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(installed)
	if b.teu, err = install(teu, installed); err != nil {
		return err
	}
	if b.peers, err = filepath.Abs(peers); err != nil {
		return err
	}
	if b.report, err = readReport(write); err != nil {
		return err
	}
	var errs []error
	for _, f := range figures {
		if only != "" && !strings.Contains(","+only+",", ","+f.name+",") || ctx.Err() != nil {
			continue
		}
		old := b.report.sections[f.name]
		b.report.begin(f.name)
		begun := time.Now()
		if err := b.measure(ctx, f.measure); err != nil {
			b.report.sections[f.name] = old
			errs = append(errs, fmt.Errorf("%s: %w", f.name, err))
		}
		fmt.Fprintf(os.Stderr, "\n%s took %s\n", f.name, time.Since(begun).Round(time.Second))
	}
	if write != "" {
		errs = append(errs, os.WriteFile(write, []byte(b.report.String()), 0o644))
	}
	return errors.Join(errs...)
}

// install copies an executable into dir, as a package does. What the linker has written is in
// the page cache in single pages, and takes a tenth longer to start.
func install(from, dir string) (string, error) {
	to := filepath.Join(dir, filepath.Base(from))
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	return to, err
}

// measure takes the figures of a subject on a disk of its own.
func (b *bench) measure(ctx context.Context, subject func(context.Context, *bench) error) error {
	disk, err := newDisk()
	if err != nil {
		return err
	}
	b.dir = disk.dir
	err = writeFile(filepath.Join(b.dir, "docker-config/config.json"), "{}\n")
	if err == nil {
		err = subject(ctx, b)
	}
	return errors.Join(err, disk.close())
}
