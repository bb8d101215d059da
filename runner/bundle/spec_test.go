package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mapped gives the container ids of the host from 100000 on.
func mapped(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev", Type: "tmpfs", Options: []string{"nosuid", "mode=755"}},
		specs.Mount{Destination: "/dev/pts", Type: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}})
}

func mountOf(m specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
}

// What a spec asks for is what the container sees.
func TestSpec(t *testing.T) {
	p := newPlace(t)
	data := p.bundle + "/data"
	for _, err := range []error{os.Mkdir(data, 0o755), os.WriteFile(data+"/f", []byte("x\n"), 0o644), os.Chown(data+"/f", 100007, 100008),
		os.MkdirAll(p.bundle+"/rootfs/etc/sub", 0o750), os.Mkdir(p.bundle+"/rootfs/data", 0o755), os.Mkdir(p.bundle+"/rootfs/plain", 0o755), os.WriteFile(p.bundle+"/rootfs/etc/passwd", []byte("seven:x:7:7::/home/seven:/bin/sh\n"), 0o644),
		os.WriteFile(p.bundle+"/rootfs/etc/sub/file", []byte("copied\n"), 0o640)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	uts := exec.Command("sleep", "1000")
	uts.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS | syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER, Pdeathsig: syscall.SIGKILL,
		UidMappings: []syscall.SysProcIDMap{{HostID: 200000, Size: 10}}, GidMappings: []syscall.SysProcIDMap{{HostID: 200000, Size: 10}}}
	if err := uts.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { uts.Process.Kill(); uts.Wait() }()
	other := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", uts.Process.Pid, kind) }

	for _, tt := range []struct {
		name, script string
		change       func(*specs.Spec)
		want         string
	}{
		{"user namespace", "cat /proc/self/uid_map | tr -s ' '; id -u; echo x >/dev/null && ls -ln /dev/null | cut -c1-10; tty <&0; hostname", func(s *specs.Spec) {
			mapped(s)
			s.Hostname = "in"
		}, " 0 100000 65536\n0\ncrw-rw-rw-\nnot a tty\nin\n"},
		{"user of a user namespace", "id -u; id -g; grep CapEff /proc/self/status", func(s *specs.Spec) {
			mapped(s)
			s.Process.User = specs.User{UID: 5, GID: 6}
		}, "5\n6\nCapEff:\t0000000000000000\n"},
		{"given user namespace", "cat /proc/self/uid_map | tr -s ' '", func(s *specs.Spec) {
			mapped(s)
			s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
			s.Linux.Namespaces[5].Path = other("user")
			s.Mounts = s.Mounts[:2]
		}, " 0 200000 10\n"},
		{"limits of a user namespace", "ulimit -n; cat /proc/self/oom_score_adj", func(s *specs.Spec) {
			mapped(s)
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 2000, Hard: 2000}}
			adj := 10
			s.Process.OOMScoreAdj = &adj
		}, "2000\n10\n"},
		{"time namespace", "cat /proc/self/timens_offsets | tr -s ' '", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 500, Nanosecs: 7}, "boottime": {Secs: 1000}}
		}, "monotonic 500 7\nboottime 1000 0\n"},
		{"mount namespace of others", "readlink /proc/self/ns/mnt; ls /", func(s *specs.Spec) {
			s.Linux.Namespaces[1].Path = other("mnt")
		}, readlink(t, other("mnt")) + "\nbin\ndata\ndev\netc\nplain\nproc\n"},
		{"mount namespace of the host", "readlink /proc/self/ns/mnt; ls /; [ -d /proc/self ] && echo mounted", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces[:1:1], s.Linux.Namespaces[2:]...)
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/proc/kcore", "/etc"}, []string{"/proc/sys"}
		}, readlink(t, "/proc/self/ns/mnt") + "\nbin\ndata\ndev\netc\nplain\nproc\nmounted\n"},
		{"id-mapped mount", "ls -ln /data/f | tr -s ' ' | cut -d' ' -f3-4", mountOf(specs.Mount{Destination: "/data", Source: data, Type: "bind", Options: []string{"bind"},
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: 100000, HostID: 0, Size: 100}}, GIDMappings: []specs.LinuxIDMapping{{ContainerID: 100000, HostID: 50, Size: 100}}}), "7 58\n"},
		{"idmap in a user namespace", "ls -ln /data/f | tr -s ' ' | cut -d' ' -f3-4; ls -ln /plain/f | tr -s ' ' | cut -d' ' -f3-4", func(s *specs.Spec) {
			mapped(s)
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/plain", Source: data, Type: "bind", Options: []string{"bind"}},
				specs.Mount{Destination: "/data", Source: data, Type: "bind", Options: []string{"bind", "idmap=uids=100000-100001-50;gids=100000-100002-50"}})
		}, "8 10\n7 8\n"},
		{"tmpcopyup", "cat /etc/sub/file; ls -ld /etc/sub | cut -c1-10; echo y >/etc/sub/new; grep -c ' /etc/sub ' /proc/self/mountinfo",
			mountOf(specs.Mount{Destination: "/etc/sub", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "tmpcopyup", "size=1m"}}),
			"copied\ndrwxr-x---\n1\n"},
		{"remount", "grep -o ' /proc r[ow][^ ]*' /proc/self/mountinfo", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc", Type: "proc", Options: []string{"remount", "ro", "nosuid"}})
		}, " /proc ro,nosuid,relatime\n"},
		{"recursive attributes", "grep -o ' /data r[^ ]*' /proc/self/mountinfo",
			mountOf(specs.Mount{Destination: "/data", Source: data, Type: "bind", Options: []string{"rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime"}}),
			" /data ro,nosuid,nodev,noexec,noatime\n"},
		{"shared root", "grep -c ' /[proc]* r[ow],.* shared:' /proc/self/mountinfo", func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" }, "2\n"},
		{"nice and I/O priority", "cut -d' ' -f19 /proc/self/stat; ionice -p 1", func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}, "7\nbest-effort: prio 6\n"},
		{"filter that forbids getcwd, sendmsg and umask", "grep Umask /proc/self/status", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"getcwd", "sendmsg", "umask"}, Action: specs.ActErrno}}}
		}, "Umask:\t0022\n"},
		{"sysctl of a user namespace", "cat /proc/sys/net/ipv4/ip_forward", func(s *specs.Spec) {
			mapped(s)
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		}, "1\n"},
		{"device outside /dev", "ls -ln /x/null | cut -c1; echo y >/x/null", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/x/null", Type: "c", Major: 1, Minor: 3}}
		}, "c\n"},
		{"memory policy", "grep -c 'bind:0' /proc/self/numa_maps | grep -vx 0 | wc -l", func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
		}, "1\n"},
		{"mode of a tmpfs", "ls -ld /etc/sub /bin/new | cut -c1-10; touch /etc/sub/x || echo fails", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/sub", Type: "tmpfs", Options: []string{"ro", "nosuid"}},
				specs.Mount{Destination: "/bin/new", Type: "tmpfs", Options: []string{"mode=0500"}})
		}, "dr-x------\ndrwxr-x---\ntouch: /etc/sub/x: Read-only file system\nfails\n"},
		{"read-only /dev", "touch /dev/x || ls -d /dev/pts", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev", Type: "tmpfs", Options: []string{"ro", "mode=755"}},
				specs.Mount{Destination: "/dev/pts", Type: "devpts", Options: []string{"newinstance"}})
		}, "touch: /dev/x: Read-only file system\n/dev/pts\n"},
		{"ambient capability that is not inheritable", "grep -E 'Cap(Prm|Amb)' /proc/self/status", func(s *specs.Spec) {
			s.Process.User.UID = 7
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_CHOWN"}, Permitted: []string{"CAP_KILL", "CAP_CHOWN"},
				Inheritable: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL", "CAP_CHOWN"}}
		}, "CapPrm:\t0000000000000020\nCapAmb:\t0000000000000020\n"},
		{"home of the user", "echo $HOME", func(s *specs.Spec) { s.Process.User.UID = 7 }, "/home/seven\n"},
		{"each variable once", "", func(s *specs.Spec) {
			s.Process.Args = []string{"env"}
			s.Process.Env = []string{"A=1", "HOME=/x", "PATH=/bin", "A=", "HOME="}
		}, "PATH=/bin\nA=\nHOME=/\n"},
		{"home of nobody", "echo $HOME", func(s *specs.Spec) { s.Process.User.UID = 8 }, "/\n"},
		{"masks of one path", "grep -c ' /plain ' /proc/self/mountinfo", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/plain", "/plain/"} }, "1\n"},
		{"relative source of a bind mount", "cat /data/f", mountOf(specs.Mount{Destination: "/data", Source: "data", Options: []string{"bind"}}), "x\n"},
	} {
		if err := p.out.Truncate(0); err != nil {
			t.Fatal(err)
		}
		p.out.Seek(0, 0)
		c, err := p.create(t, "a", tt.script, tt.change)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if err := c.Start(t.Context()); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else {
			wantStatus(t, c, specs.StateStopped)
			if got := p.output(t); got != tt.want {
				t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
			}
		}
		if _, err := c.Delete(t.Context(), DeleteOptions{Force: true}); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(b, []byte(p.bundle)) {
		t.Errorf("the host has mounts of containers: %v", err)
	}
}

// An exec enters all namespaces, also those of users and time and a root without a mount
// namespace.
func TestExecNamespaces(t *testing.T) {
	p := newPlace(t)
	for name, change := range map[string]func(*specs.Spec){
		"user": mapped,
		"time": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		},
		"no mount": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces[:1:1], s.Linux.Namespaces[2:]...)
		},
	} {
		c, err := p.create(t, "a", "while :; do read x; done", change)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		o := ExecOptions{Stdio: Stdio{Files: [3]*os.File{p.out, w, w}}}
		_, err = c.Exec(&specs.Process{Args: []string{"sh", "-c", "for n in cgroup ipc mnt net pid time user uts; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done | uniq | wc -l; ls /"},
			Cwd: "/", Env: []string{"PATH=/bin"}}, o)
		w.Close()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var out bytes.Buffer
		if _, err := out.ReadFrom(r); err != nil || out.String() != "8\nbin\ndev\nproc\n" {
			t.Errorf("%s: %v %q", name, err, out.String())
		}
		r.Close()
		if _, err := c.Delete(t.Context(), DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
}

// An exec has the session keyring of the container, or with a shared one the caller's.
func TestExecKeyring(t *testing.T) {
	p := newPlace(t)
	const look = "id=$(grep -c ' keyring *_ses.ring-' /proc/keys); echo $id rings"
	for name, change := range map[string]func(*specs.Spec){"host": nil, "user": mapped} {
		c, err := p.create(t, "ring-"+name, "while :; do read x; done", change)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Exec(&specs.Process{Args: []string{"sh", "-c", look}, Cwd: "/", Env: []string{"PATH=/bin"}},
				ExecOptions{Stdio: Stdio{Files: [3]*os.File{p.out, w, w}}})
			w.Close()
			var out bytes.Buffer
			if _, copyErr := out.ReadFrom(r); copyErr != nil || err != nil || out.String() != "1 rings\n" {
				t.Errorf("%s: %v, %v, %q", name, err, copyErr, out.String())
			}
			r.Close()
		}
		if _, err := c.Delete(t.Context(), DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
}

// The terminal of an exec is its user's, also where users are mapped.
func TestExecTerminalOfMappedUser(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", "while :; do read x; done", mapped)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, user := range []specs.User{{}, {UID: 1000, GID: 1000}} {
		var master *os.File
		_, err := c.Exec(&specs.Process{Terminal: true, User: user, Args: []string{"sh", "-c", ": </dev/pts/0 && ls -ln /dev/pts/0; ls -ln /proc/self/fd/0"},
			Cwd: "/", Env: []string{"PATH=/bin"}}, ExecOptions{Stdio: Stdio{Files: p.stdio().Files, Terminal: func(f *os.File) { master = f }}})
		if err != nil {
			t.Errorf("user %d: %v", user.UID, err)
			continue
		}
		out, _ := io.ReadAll(master) // EIO at its end
		master.Close()
		if want := fmt.Sprintf(" %d ", user.UID); !strings.Contains(string(out), want) || !strings.Contains(string(out), "/dev/pts/0\r\n") || strings.Contains(string(out), "can't open") {
			t.Errorf("user %d: %q", user.UID, out)
		}
	}
}

// The agent of a seccomp profile gets its listener, of the command and of an exec.
func TestListener(t *testing.T) {
	p := newPlace(t)
	agent, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.bundle + "/agent", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	c, err := p.create(t, "a", "while :; do read x; done", func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: p.bundle + "/agent", ListenerMetadata: "for you",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"chmod"}, Action: specs.ActNotify}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, start := range []func() (int, error){
		func() (int, error) { return c.Init.PID, c.Start(t.Context()) },
		func() (int, error) {
			id, err := c.Exec(&specs.Process{Args: []string{"sh", "-c", "chmod 1 /x"}, Cwd: "/", Env: []string{"PATH=/bin"}}, ExecOptions{Stdio: p.stdio()})
			return id.PID, err
		},
	} {
		pid, err := start()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := agent.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		text, oob := make([]byte, 4096), make([]byte, 64)
		n, m, _, _, err := conn.ReadMsgUnix(text, oob)
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		var state specs.ContainerProcessState
		if err := json.Unmarshal(text[:n], &state); err != nil || state.Metadata != "for you" || state.Pid != pid || state.State.ID != "a" ||
			len(state.Fds) != 1 || state.Fds[0] != "seccompFd" {
			t.Errorf("%v: %s", err, text[:n])
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:m])
		if err != nil || len(msgs) != 1 {
			t.Fatal(msgs, err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			t.Fatal(fds, err)
		}
		if to, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fds[0])); !strings.Contains(to, "seccomp") {
			t.Errorf("descriptor of %s", to)
		}
		unix.Close(fds[0])
	}
}

// A container without a process can be created, and only that.
func TestNoProcess(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", "", func(s *specs.Spec) { s.Process = nil })
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateCreated)
	if err := c.Start(t.Context()); err == nil {
		t.Error("it starts")
	}
	wantStatus(t, c, specs.StateStopped)
}

// No flags are others than none given, also for what is executed later, with the spec that was kept.
func TestEmptySeccompFlagsAreKept(t *testing.T) {
	p := newPlace(t)
	for given, want := range map[bool]int{true: 1, false: 0} {
		c, err := p.create(t, "a", "true", func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
			if given {
				s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{"EMPTY"} // see create
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if conf, err := c.spec(); err != nil || len(conf.Linux.Seccomp.Flags) != want {
			t.Errorf("given %v: %v, %v", given, conf.Linux.Seccomp, err)
		}
		if _, err := c.Delete(t.Context(), DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
