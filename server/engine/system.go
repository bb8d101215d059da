package engine

import (
	"bufio"
	"context"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/userns"
)

// ping answers GET and HEAD /_ping, by which clients find out what they talk to.
func (s *Server) ping(w http.ResponseWriter, r *request) error {
	h := w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Builder-Version", builderVersion)
	h.Set("Swarm", string(swarm.LocalNodeStateInactive))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return nil
	}
	h.Set("Content-Length", "2")
	_, err := w.Write([]byte("OK"))
	return ignoreWrite(err)
}

// builderVersion says that clients may build by BuildKit's sessions; 1 would be the classic builder alone.
const builderVersion = "2"

// DockerVersion is the release of docker whose API this is: clients compare it, and
// know nothing of teu's own numbers.
const DockerVersion = "29.6.0"

func (s *Server) getVersion(w http.ResponseWriter, r *request) error {
	v := system.VersionResponse{
		Platform: system.PlatformInfo{Name: "teu " + s.Version},
		Version:  DockerVersion, APIVersion: newestVersion.String(), MinAPIVersion: oldestVersion.String(),
		Os: "linux", Arch: runtime.GOARCH, GoVersion: runtime.Version(),
		KernelVersion: kernelVersion(),
	}
	v.Components = []system.ComponentVersion{
		{Name: "Engine", Version: DockerVersion, Details: map[string]string{
			"ApiVersion": v.APIVersion, "Arch": v.Arch, "BuildTime": v.BuildTime, "Experimental": "false", "GitCommit": "",
			"GoVersion": v.GoVersion, "KernelVersion": v.KernelVersion, "MinAPIVersion": v.MinAPIVersion, "Os": v.Os,
		}},
		{Name: "teu", Version: s.Version, Details: map[string]string{"GitCommit": ""}},
	}
	return writeJSON(w, http.StatusOK, v)
}

// info has what clients look at, and is honest about the rest.
type info struct {
	*system.Info
	// What versions before 1.44 had.
	KernelMemory       bool
	KernelMemoryTCP    bool
	BridgeNfIptables   bool
	BridgeNfIP6tables  bool `json:"BridgeNfIp6tables"`
	ClusterStore       string
	ClusterAdvertise   string
	LegacySecurityOpts []string `json:"-"`
}

func (s *Server) getInfo(w http.ResponseWriter, r *request) error {
	i, err := s.Info(r.Context())
	if err != nil {
		return err
	}
	if r.version < 49 {
		i.FirewallBackend = nil
	}
	if r.version < 50 {
		i.DiscoveredDevices = nil
		return writeJSON(w, http.StatusOK, info{Info: i, BridgeNfIptables: true, BridgeNfIP6tables: true})
	}
	return writeJSON(w, http.StatusOK, i)
}

// Info is docker's type, for those that may not name it.
type Info = system.Info

// Info is what GET /info tells clients of the newest version.
func (s *Server) Info(ctx context.Context) (*Info, error) {
	all, err := s.Containers.List(ctx)
	if err != nil {
		return nil, err
	}
	list, err := s.Images(nil).All(ctx)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	i := &system.Info{
		ID: s.hostID(), Containers: len(all), Images: len(list), Driver: "overlayfs",
		DriverStatus: [][2]string{{"driver-type", "teu"}},
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: networkDrivers(), Log: runner.LogDrivers(),
		},
		MemoryLimit: true, SwapLimit: true, CPUCfsPeriod: true, CPUCfsQuota: true, CPUShares: true, CPUSet: true,
		PidsLimit: true, IPv4Forwarding: true, OomKillDisable: true, Debug: s.Debug, NFd: openFiles(), NGoroutines: runtime.NumGoroutine(),
		SystemTime: time.Now().Format(time.RFC3339Nano), LoggingDriver: "json-file", CgroupDriver: "cgroupfs",
		CgroupVersion: cgroupVersion(), KernelVersion: kernelVersion(), OperatingSystem: osRelease("PRETTY_NAME"),
		OSVersion: osRelease("VERSION_ID"), OSType: "linux", Architecture: machine(),
		IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig: &registry.ServiceConfig{InsecureRegistryCIDRs: loopback(), Mirrors: []string{}, IndexConfigs: map[string]*registry.IndexInfo{
			"docker.io": {Name: "docker.io", Mirrors: []string{}, Secure: true, Official: true},
		}},
		NCPU: runtime.NumCPU(), MemTotal: memoryTotal(), DockerRootDir: s.Root, Name: host, Labels: []string{},
		ServerVersion: DockerVersion, DefaultRuntime: "teu",
		Runtimes:           map[string]system.RuntimeWithStatus{"teu": {}, "runc": {}, "io.containerd.runc.v2": {}},
		Swarm:              swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: true, SecurityOptions: []string{"name=seccomp,profile=builtin", "name=cgroupns"},
		CDISpecDirs: []string{}, Warnings: nil,
		HTTPProxy: masked("HTTP_PROXY"), HTTPSProxy: masked("HTTPS_PROXY"), NoProxy: os.Getenv("NO_PROXY"),
	}
	if !userns.Inside() {
		i.FirewallBackend = &system.FirewallInfo{Driver: "nftables"}
	}
	if userns.Inside() {
		i.SecurityOptions = append(i.SecurityOptions, "name=rootless")
	}
	if runner.SELinuxSupported() {
		i.SecurityOptions = slices.Insert(i.SecurityOptions, 0, "name=selinux")
	}
	if runner.AppArmorSupported() {
		i.SecurityOptions = slices.Insert(i.SecurityOptions, 0, "name=apparmor")
	}
	if s.CDI != nil {
		dirs, names := s.CDI()
		i.CDISpecDirs = append(i.CDISpecDirs, dirs...)
		for _, name := range names {
			i.DiscoveredDevices = append(i.DiscoveredDevices, system.DeviceInfo{Source: "cdi", ID: name})
		}
	}
	for _, c := range all {
		switch c.State.Status {
		case keeper.Running, keeper.Restarting:
			i.ContainersRunning++
		case keeper.Paused:
			i.ContainersPaused++
		default:
			i.ContainersStopped++
		}
	}
	return i, nil
}

// loopback is where registries may speak plain HTTP.
func loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")}
}

// masked is a proxy of the environment without its password.
func masked(name string) string {
	text := os.Getenv(name)
	scheme, rest, ok := strings.Cut(text, "://")
	if _, host, secret := strings.Cut(rest, "@"); ok && secret {
		return scheme + "://xxxxx:xxxxx@" + host
	}
	return text
}

// hostID is stable for a machine and tells nothing else about it.
func (s *Server) hostID() string {
	b, err := os.ReadFile("/etc/machine-id")
	id := strings.TrimSpace(string(b))
	if err != nil || len(id) != 32 {
		id = strings.Repeat("0", 32)
	}
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
}

func networkDrivers() []string { return []string{"bridge", "host", "ipvlan", "macvlan", "null"} }

func uname() (u unix.Utsname) {
	unix.Uname(&u) // cannot fail with a good pointer
	return u
}

func kernelVersion() string { u := uname(); return unix.ByteSliceToString(u.Release[:]) }
func machine() string       { u := uname(); return unix.ByteSliceToString(u.Machine[:]) }

func cgroupVersion() string {
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return "2"
	}
	return "1"
}

func osRelease(key string) string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if k, v, _ := strings.Cut(lines.Text(), "="); k == key {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

func memoryTotal() int64 {
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) != nil {
		return 0
	}
	return int64(i.Totalram) * int64(i.Unit)
}

func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// unixSeconds is a time in docker's old form, 0 for none.
func unixSeconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// parseTime reads a time parameter: seconds with an optional fraction, or RFC 3339.
func parseTime(text string) (time.Time, error) {
	if text == "" || text == "0" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	sec, frac, _ := strings.Cut(text, ".")
	s, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}, invalid("invalid timestamp %q", text)
	}
	frac = (frac + "000000000")[:9]
	n, err := strconv.ParseInt(frac, 10, 64)
	if err != nil {
		return time.Time{}, invalid("invalid timestamp %q", text)
	}
	return time.Unix(s, n), nil
}
