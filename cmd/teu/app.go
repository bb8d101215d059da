package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

// app is what commands work with: the global settings and, made on first use, the
// parts of teu. Nothing here costs anything until a command asks for it.
type app struct {
	ui   *ui.UI
	self self

	root       string // directory of the store
	runRoot    string // directory of volatile state
	configFile string
	config     config
	debug      bool
	noColor    bool
	logFormat  string
	logLevel   string
	wishes     dockerFlags
	words      []string // of the command line from the command's name on
	confined   error    // why this root, who lacks capabilities, is not root of a user namespace

	opened       *cache.Store
	whole        wholeParts
	runner       *runner.Engine
	sealing      sync.Once
	sealed       *keeper.Binary
	sealingError error
}

// newApp returns an app with its settings taken from the environment; the global
// flags override them.
func newApp(u *ui.UI) *app {
	root, runRoot, _ := defaultPaths()
	return &app{
		ui:         u,
		self:       ownSelf(),
		root:       envOr("TEU_ROOT", root),
		runRoot:    envOr("TEU_RUN_ROOT", runRoot),
		configFile: usualConfig(),
	}
}

func envOr(name, value string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return value
}

// defaultPaths returns the store, the volatile directory and the configuration file:
// the system's for root, the XDG base directories for everybody else.
func defaultPaths() (root, runRoot, configFile string) {
	if os.Geteuid() == 0 {
		return "/var/lib/teu", "/run/teu", "/etc/teu/config.json"
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(envOr("XDG_DATA_HOME", filepath.Join(home, ".local/share")), "teu"),
		userRunRoot(),
		filepath.Join(envOr("XDG_CONFIG_HOME", filepath.Join(home, ".config")), "teu/config.json")
}

// prepare finishes the settings once the global flags are known.
func (a *app) prepare() error {
	if a.noColor {
		a.ui.Color = false
	}
	level, err := logLevel(a.logLevel)
	if err != nil {
		return err
	}
	if a.debug {
		level = slog.LevelDebug
	}
	opts := &slog.HandlerOptions{Level: level}
	switch a.logFormat {
	case "text":
		slog.SetDefault(slog.New(slog.NewTextHandler(a.ui.Err, opts)))
	case "json":
		slog.SetDefault(slog.New(slog.NewJSONHandler(a.ui.Err, opts)))
	default:
		return &usageError{command: "teu", err: fmt.Errorf("--log-format is text or json, not %q", a.logFormat)}
	}
	for _, dir := range []*string{&a.root, &a.runRoot} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	if err := a.takeConfig(); err != nil {
		return err
	}
	c, err := readConfig(a.configFile)
	if err != nil {
		return err
	}
	a.config = c
	return a.handOverFor(c)
}

// logLevel reads docker's --log-level. Its usual "info" is what people want to see of an engine; of commands it is warnings.
func logLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "", "warn", "warning":
		return slog.LevelWarn, nil
	case "trace", "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "error", "fatal", "panic":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("unable to parse logging level: %s", name)
}

// takeConfig tells what --config means: a file is teu's; a directory, or what is not there, is docker's, where
// credentials and proxies are.
func (a *app) takeConfig() error {
	usual := usualConfig()
	if a.configFile == usual {
		return nil
	}
	fi, err := os.Stat(a.configFile)
	if err == nil && !fi.IsDir() || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err = os.Setenv("DOCKER_CONFIG", a.configFile)
	a.configFile = usual
	return err
}

func usualConfig() string {
	_, _, file := defaultPaths()
	return envOr("TEU_CONFIG", file)
}

// store opens the store, once.
func (a *app) store() (*cache.Store, error) {
	if a.opened == nil {
		s, err := cache.Open(a.root, a.runRoot)
		if err != nil {
			return nil, fmt.Errorf("opening the store %s: %w", a.root, err)
		}
		a.opened = s
		for _, name := range s.Lost() {
			a.ui.Warnf("the image %s is lost: the machine went down before it was on the disk; build it again", name)
		}
	}
	return a.opened, nil
}
