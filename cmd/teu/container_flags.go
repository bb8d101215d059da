package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

// containerFlags are the flags of run and create that say what the container is.
type containerFlags struct {
	name, cidfile, pull, platform string
	quiet                         bool

	tty, interactive bool
	attach           []string
	rm               bool

	env, envFiles, labels, labelFiles, annotations   []string
	workdir, user, hostname, domainname, entrypoint  string
	groups                                           []string
	volumes, mounts, tmpfs, volumesFrom              []string
	publish, expose                                  []string
	publishAll                                       bool
	networks                                         []string
	endpoint                                         endpointFlags
	addHosts, dns, dnsSearch, dnsOptions             []string
	restart, stopSignal                              string
	stopTimeout                                      int
	logDriver                                        string
	logOpts                                          []string
	memory, memorySwap, memoryReservation, shmSize   string
	cpus                                             string
	cpuShares, cpuPeriod, cpuQuota                   int64
	cpusetCPUs, cpusetMems                           string
	pidsLimit                                        int64
	oomScoreAdj                                      int
	gpus                                             gpuFlag
	ulimits, sysctls, devices, capAdd, capDrop, sopt []string
	privileged, readOnly, init                       bool
	ipc, pid, uts, cgroupns, userns                  string
	runtime, isolation                               string
	apiSocket                                        bool
	noHealthcheck                                    bool
	healthCmd, healthHTTP, healthTCP, healthUnix     string
	healthOnFailure                                  string
	health                                           runner.HealthCheck

	blkioWeight                            uint16
	blkioWeightDevice                      []string
	readBps, writeBps, readIOps, writeIOps []string
	cpuRTPeriod, cpuRTRuntime              int64
	memorySwappiness                       int64
	umask                                  string
	oomKillDisable                         bool
	kernelMemory, cgroupParent             string
	deviceRules                            []string
}

func (c *containerFlags) add(f *pflag.FlagSet) {
	f.StringVar(&c.name, "name", "", "name of the container")
	f.StringVar(&c.cidfile, "cidfile", "", "write the container's ID to a file")
	f.StringVar(&c.pull, "pull", "missing", "pull the image before: always, missing or never")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "do not show how the image is pulled")
	f.StringVar(&c.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "platform of the image, if it has several: os/arch[/variant]")

	f.BoolVarP(&c.tty, "tty", "t", false, "give the container a terminal")
	f.BoolVarP(&c.interactive, "interactive", "i", false, "keep standard input open")
	listVar(f, &c.attach, "attach", "a", "attach to stdin, stdout or stderr only")
	f.BoolVar(&c.rm, "rm", false, "remove the container and its anonymous volumes when it ends")

	listVar(f, &c.env, "env", "e", "set an environment variable: NAME=VALUE, or NAME for the one here")
	listVar(f, &c.envFiles, "env-file", "", "read environment variables from a file")
	listVar(f, &c.labels, "label", "l", "set a label: NAME[=VALUE]")
	listVar(f, &c.labelFiles, "label-file", "", "read labels from a file")
	listVar(f, &c.annotations, "annotation", "", "set an annotation of the runtime spec: NAME[=VALUE]")
	f.StringVarP(&c.workdir, "workdir", "w", "", "working directory in the container")
	f.StringVarP(&c.user, "user", "u", "", "user[:group], by name or number")
	listVar(f, &c.groups, "group-add", "", "additional group")
	f.StringVarP(&c.hostname, "hostname", "h", "", "host name of the container")
	f.StringVar(&c.domainname, "domainname", "", "domain name of the container")
	f.StringVar(&c.entrypoint, "entrypoint", "", "replace the image's entry point; empty for none")

	listVar(f, &c.volumes, "volume", "v", "mount a directory or volume: [SOURCE:]TARGET[:OPTIONS]")
	listVar(f, &c.mounts, "mount", "", "mount: type=bind|volume|tmpfs|image,source=S,target=T,...")
	listVar(f, &c.volumesFrom, "volumes-from", "", "mount the volumes of another container: CONTAINER[:ro|rw]")
	listVar(f, &c.tmpfs, "tmpfs", "", "mount a tmpfs: TARGET[:OPTIONS]")

	listVar(f, &c.publish, "publish", "p", "publish a port: [[ADDRESS:]HOSTPORT:]PORT[/PROTOCOL]")
	f.BoolVarP(&c.publishAll, "publish-all", "P", false, "publish all exposed ports on ports that are free")
	listVar(f, &c.expose, "expose", "", "expose a port for --publish-all")
	listVar(f, &c.networks, "network", "", "bridge, none, host, container:NAME or a network, also several: NAME or name=NAME,alias=A,ip=…")
	f.StringSliceVar(&c.endpoint.aliases, "network-alias", nil, "name by which others of the network find the container")
	f.StringVar(&c.endpoint.ip, "ip", "", "IPv4 address in the network")
	f.StringVar(&c.endpoint.ip6, "ip6", "", "IPv6 address in the network")
	f.StringVar(&c.endpoint.mac, "mac-address", "", "hardware address")
	f.StringSliceVar(&c.endpoint.linkLocal, "link-local-ip", nil, "link-local address")
	listVar(f, &c.endpoint.links, "link", "", "another container under a name of one's own: CONTAINER[:ALIAS]")
	check(f, "network", checkNetwork)
	check(f, "ip", checkIP)
	check(f, "ip6", checkIP)
	check(f, "link", checkLink)
	alias(f, "network", "net")
	alias(f, "network-alias", "net-alias")
	listVar(f, &c.addHosts, "add-host", "", "add a line to /etc/hosts: NAME:ADDRESS")
	listVar(f, &c.dns, "dns", "", "address of a name server")
	listVar(f, &c.dnsSearch, "dns-search", "", "search domain")
	listVar(f, &c.dnsOptions, "dns-option", "", "option of the resolver")
	check(f, "add-host", checkAddHost)
	check(f, "dns", checkDNS)
	check(f, "dns-search", checkSearch)
	alias(f, "dns-option", "dns-opt")

	f.StringVar(&c.restart, "restart", "no", "restart policy: no, on-failure[:MAX], always or unless-stopped")
	f.StringVar(&c.stopSignal, "stop-signal", "", "signal that stops the container")
	f.IntVar(&c.stopTimeout, "stop-timeout", -1, "seconds until a container that is stopped is killed")
	f.StringVar(&c.logDriver, "log-driver", "json-file", "json-file, local, syslog, journald, fluentd, gelf or none")
	listVar(f, &c.logOpts, "log-opt", "", "option of the log driver, as in docker: max-size=SIZE (10m), max-file=N (3), tag=, labels=, env=, syslog-address=")
	check(f, "attach", checkAttach)
	check(f, "env", checkEnv)
	check(f, "label", checkLabel)
	c.addLimits(f)
	c.addSecurity(f)
}

func (c *containerFlags) addLimits(f *pflag.FlagSet) {
	f.StringVarP(&c.memory, "memory", "m", "", "memory limit, such as 512m")
	f.StringVar(&c.memorySwap, "memory-swap", "", "limit of memory and swap together, -1 for none")
	f.StringVar(&c.memoryReservation, "memory-reservation", "", "memory that is left alone when memory is short")
	f.StringVar(&c.shmSize, "shm-size", "", "size of /dev/shm (default 64m)")
	f.StringVar(&c.cpus, "cpus", "", "number of processors, such as 1.5")
	f.Int64VarP(&c.cpuShares, "cpu-shares", "c", 0, "relative weight")
	f.Int64Var(&c.cpuPeriod, "cpu-period", 0, "microseconds of a scheduler period")
	f.Int64Var(&c.cpuQuota, "cpu-quota", 0, "microseconds of a period the container may run")
	f.StringVar(&c.cpusetCPUs, "cpuset-cpus", "", "processors to run on, such as 0-2,4")
	f.StringVar(&c.cpusetMems, "cpuset-mems", "", "memory nodes to use")
	f.Int64Var(&c.pidsLimit, "pids-limit", 0, "number of processes, -1 for no limit")
	f.IntVar(&c.oomScoreAdj, "oom-score-adj", 0, "preference of the OOM killer, -1000 to 1000")
	f.Uint16Var(&c.blkioWeight, "blkio-weight", 0, "relative weight of block I/O, 10 to 1000, 0 for none")
	listVar(f, &c.blkioWeightDevice, "blkio-weight-device", "", "relative weight at a device: PATH:WEIGHT")
	listVar(f, &c.readBps, "device-read-bps", "", "bytes a second read of a device: PATH:RATE[kb|mb|gb]")
	listVar(f, &c.writeBps, "device-write-bps", "", "bytes a second written to a device")
	listVar(f, &c.readIOps, "device-read-iops", "", "reads a second of a device: PATH:RATE")
	listVar(f, &c.writeIOps, "device-write-iops", "", "writes a second to a device")
	f.Int64Var(&c.cpuRTPeriod, "cpu-rt-period", 0, "microseconds of a real-time period")
	f.Int64Var(&c.cpuRTRuntime, "cpu-rt-runtime", 0, "microseconds of a period for real-time tasks")
	f.Int64Var(&c.memorySwappiness, "memory-swappiness", -1, "inclination to swap, 0 to 100 (cgroup v1)")
	f.BoolVar(&c.oomKillDisable, "oom-kill-disable", false, "let processes wait instead of killing them (cgroup v1)")
	f.StringVar(&c.kernelMemory, "kernel-memory", "", "has no effect: kernels do not limit it any more")
	f.StringVar(&c.cgroupParent, "cgroup-parent", "", "control group that the container's is made in (default \"teu\")")
	hide(f, "kernel-memory")
	listVar(f, &c.ulimits, "ulimit", "", "resource limit: NAME=SOFT[:HARD]")
	for _, size := range []string{"memory", "memory-reservation", "shm-size", "kernel-memory"} {
		check(f, size, checkSize)
	}
	check(f, "memory-swap", checkSwap)
	check(f, "cpus", checkCPUs)
	check(f, "blkio-weight-device", checkWeight)
	check(f, "device-read-bps", checkBytesRate)
	check(f, "device-write-bps", checkBytesRate)
	check(f, "device-read-iops", checkCountRate)
	check(f, "device-write-iops", checkCountRate)
	f.StringVar(&c.umask, "umask", "", "permissions that new files do not get, in octal (default 0022)")
	check(f, "umask", checkUmask)
	check(f, "ulimit", checkUlimit)
}

func (c *containerFlags) addSecurity(f *pflag.FlagSet) {
	listVar(f, &c.sysctls, "sysctl", "", "kernel parameter of the container: NAME=VALUE")
	listVar(f, &c.devices, "device", "", "device of the host: SOURCE[:TARGET[:rwm]], or its CDI name: VENDOR/CLASS=NAME")
	f.Var(&c.gpus, "gpus", "GPUs of the host by their CDI names: all, a number or device=ID")
	listVar(f, &c.capAdd, "cap-add", "", "add a capability")
	listVar(f, &c.capDrop, "cap-drop", "", "drop a capability")
	listVar(f, &c.sopt, "security-opt", "", "no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE, systempaths=unconfined")
	f.BoolVar(&c.privileged, "privileged", false, "give the container all rights of the host's root")
	f.BoolVar(&c.readOnly, "read-only", false, "make the root filesystem read-only")
	f.BoolVar(&c.init, "init", false, "run an init that passes signals on and reaps processes")
	f.StringVar(&c.ipc, "ipc", "", "IPC namespace: private, shareable, none, host or container:NAME")
	f.StringVar(&c.pid, "pid", "", "PID namespace: host or container:NAME")
	f.StringVar(&c.uts, "uts", "", "UTS namespace: host")
	f.StringVar(&c.cgroupns, "cgroupns", "", "cgroup namespace: private or host")
	f.StringVar(&c.userns, "userns", "", "user namespace: host, auto[:size=N,uidmapping=..,gidmapping=..], keep-id[:uid=N,gid=N], nomap or container:NAME")
	f.StringVar(&c.runtime, "runtime", "", "runtime: there is teu, also called runc")
	listVar(f, &c.deviceRules, "device-cgroup-rule", "", "allow devices: TYPE MAJOR:MINOR ACCESS, such as 'c 189:* rwm'")
	f.Bool("disable-content-trust", true, "accepted for docker's sake")
	f.BoolVar(&c.apiSocket, "use-api-socket", false, "not there")
	f.StringVar(&c.isolation, "isolation", "", "default, the only one there is")
	hide(f, "runtime", "disable-content-trust", "use-api-socket", "isolation")
	check(f, "sysctl", checkSysctl)
	check(f, "device-cgroup-rule", checkDeviceRule)
	c.addHealth(f)
}

// alias gives a flag an older name, which fills the same list.
func alias(f *pflag.FlagSet, name, older string) {
	f.Var(f.Lookup(name).Value, older, "the same as --"+name)
	hide(f, older)
}

func hide(f *pflag.FlagSet, names ...string) {
	for _, n := range names {
		f.Lookup(n).Hidden = true
	}
}

// options turns the flags into what the engine wants. changed says which were given.
func (c *containerFlags) options(f *pflag.FlagSet, image string, args []string) (o runner.Options, err error) {
	if err := cmp.Or(runner.CheckIsolation(c.isolation), runner.CheckRuntime(c.runtime)); err != nil {
		return o, err
	}
	if c.apiSocket {
		return o, errors.New("--use-api-socket is not there: run `teu serve engine` and mount its socket, -v /run/teu/docker.sock:/var/run/docker.sock")
	}
	o = runner.Options{
		IDFile: c.cidfile,
		Image:  image, Args: args, WorkingDir: c.workdir, User: c.user, Groups: c.groups,
		Hostname: c.hostname, Domainname: c.domainname, TTY: c.tty, OpenStdin: c.interactive,
		PublishAll: c.publishAll, ExtraHosts: c.addHosts,
		IPCMode: c.ipc, PIDMode: c.pid, UTSMode: c.uts, CgroupMode: c.cgroupns, CgroupParent: c.cgroupParent, UsernsMode: c.userns,
		DNS: c.dns, DNSSearch: c.dnsSearch, DNSOptions: c.dnsOptions, AutoRemove: c.rm, StopSignal: c.stopSignal,
		Privileged: c.privileged, ReadOnly: c.readOnly, Init: c.init,
	}
	if o.WorkingDir != "" {
		o.WorkingDir = path.Clean(o.WorkingDir)
	}
	if f.Changed("entrypoint") {
		o.ClearEntrypoint = c.entrypoint == ""
		if !o.ClearEntrypoint {
			o.Entrypoint = []string{c.entrypoint}
		}
	}
	if c.stopTimeout >= 0 || f.Changed("stop-timeout") {
		o.StopTimeout = &c.stopTimeout
	}
	if f.Changed("oom-score-adj") {
		o.OOMScoreAdj = &c.oomScoreAdj
	}
	if c.stopSignal != "" {
		if _, err := runner.ParseSignal(c.stopSignal); err != nil {
			return o, err
		}
	}
	for _, mode := range []struct{ flag, what, text, valid string }{
		{"pid", "PID", c.pid, "host"}, {"uts", "UTS", c.uts, "host"}, {"cgroupns", "CGROUP", c.cgroupns, "host private"},
	} {
		other, joins := strings.CutPrefix(mode.text, "container:")
		if joins && other != "" && mode.flag == "pid" || mode.text == "" || slices.Contains(strings.Fields(mode.valid), mode.text) {
			continue
		}
		return o, fmt.Errorf("--%s: invalid %s mode", mode.flag, mode.what)
	}
	for _, step := range []func(*runner.Options) error{
		c.setPlatform, c.setEnvironment, c.setLabels, c.setMounts, c.setNetworks, c.setPorts, c.setRestart, c.setLog, c.setLimits, c.setSecurity, c.setHealth,
	} {
		if err := step(&o); err != nil {
			return o, err
		}
	}
	return o, nil
}

func (c *containerFlags) setPlatform(o *runner.Options) (err error) {
	o.Platform, err = onePlatform(c.platform)
	return err
}

func (c *containerFlags) setEnvironment(o *runner.Options) error {
	for _, path := range c.envFiles {
		lines, err := readEnvFile(path)
		if err != nil {
			return fmt.Errorf("--env-file: %w", err)
		}
		o.Env = append(o.Env, valued(expandEnv(lines))...)
	}
	o.Env = append(append(o.Env, proxyVariables(c.env)...), expandEnv(c.env)...)
	return nil
}

// readEnvFile reads the lines NAME[=VALUE] of an --env-file or a --label-file.
func readEnvFile(path string) ([]string, error) {
	lines, err := readLines(path)
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		switch name, _, _ := strings.Cut(line, "="); {
		case name == "":
			return nil, fmt.Errorf("invalid env file (%s): no variable name on line '%s'", path, line)
		case strings.ContainsAny(name, " \t"):
			return nil, fmt.Errorf("invalid env file (%s): variable '%s' contains whitespaces", path, name)
		}
	}
	return lines, nil
}

// valued are the lines with a value. In a file, unlike with --env, a name that has none here is nothing.
func valued(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, "=") })
}

// expandEnv gives names without a value the one they have here. Those that have none
// stay names, which takes them out of the image's environment.
func expandEnv(list []string) []string {
	var env []string
	for _, kv := range list {
		if !strings.Contains(kv, "=") {
			if value, ok := os.LookupEnv(kv); ok {
				kv += "=" + value
			}
		}
		env = append(env, kv)
	}
	return env
}

// readLines reads the lines of a file that are neither empty nor comments.
func readLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		text := s.Text()
		if lines == nil {
			text = strings.TrimPrefix(text, "\ufeff") // some editors begin files with it
		}
		line := strings.TrimLeftFunc(text, unicode.IsSpace)
		if line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("invalid env file (%s): %w", path, err)
	}
	return lines, nil
}

func (c *containerFlags) setLabels(o *runner.Options) error {
	all := []string{}
	for _, path := range c.labelFiles {
		lines, err := readEnvFile(path)
		if err != nil {
			return fmt.Errorf("--label-file: %w", err)
		}
		all = append(all, valued(lines)...)
	}
	all = append(all, c.labels...)
	o.Labels, o.Annotations = keyValues(all), keyValues(c.annotations)
	return nil
}

func keyValues(list []string) map[string]string {
	m := map[string]string{}
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
	return m
}

func (c *containerFlags) setRestart(o *runner.Options) (err error) {
	name, limit, limited := strings.Cut(c.restart, ":")
	if limited && name == "" {
		return errors.New("invalid restart policy format: no policy provided before colon")
	}
	o.Restart = keeper.RestartPolicy{Name: name}
	if limit != "" {
		if o.Restart.MaxRetries, err = strconv.Atoi(limit); err != nil {
			return errors.New("invalid restart policy format: maximum retry count must be an integer")
		}
	}
	return nil
}

func (c *containerFlags) setLog(o *runner.Options) error {
	if c.logDriver == "none" && len(c.logOpts) > 0 { // docker's client says so, its server does not
		return errors.New("invalid logging opts for driver none")
	}
	return o.SetLog(c.logDriver, keyValues(c.logOpts))
}
