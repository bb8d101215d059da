package engine_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// sshd starts OpenSSH's server on the loopback of the world's namespace, with keys and files of
// its own, and puts an `ssh` into the path of the world that knows them. On the far side
// `docker` is teu, as docs/engine-api.md says.
func (w *world) sshd() {
	w.t.Helper()
	unpacked, err := filepath.Abs("../../.cache/sshd")
	if err != nil {
		w.t.Fatal(err)
	}
	w.run("sh", "-ec", `mkdir -m 700 ssh ssh/run ssh/far ssh/near; cd ssh
ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key
printf '#!/bin/sh\nexec "%s" "$@"\n' "$0" >far/docker
printf '#!/bin/sh\nexec /usr/bin/ssh -F "%s/config" "$@"\n' "$PWD" >near/ssh
chmod +x far/docker near/ssh
{ cat /etc/passwd; echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin'; } >passwd
echo "[127.0.0.1]:2222 $(cut -d' ' -f1,2 host.pub)" >known
cat >sshd_config <<-END
	ListenAddress 127.0.0.1:2222
	HostKey $PWD/host
	AuthorizedKeysFile $PWD/key.pub
	PasswordAuthentication no
	UsePAM no
	StrictModes no
	PidFile none
	SetEnv PATH=$PWD/far:/usr/bin:/bin TEU_ROOT=$TEU_ROOT TEU_RUN_ROOT=$TEU_RUN_ROOT
END
cat >config <<-END
	IdentityFile $PWD/key
	IdentitiesOnly yes
	UserKnownHostsFile $PWD/known
END`, w.teu)
	// The user that sshd gives its rights up to is known in a mount namespace of its own only.
	script := `mount --bind "$1/passwd" /etc/passwd; mount -t tmpfs run /run; mkdir /run/sshd; exec "$0" -D -e -f "$1/sshd_config"`
	cmd := exec.Command("nsenter", "--net="+w.dir+"/netns", "unshare", "--mount", "sh", "-ec", script, unpacked+"/usr/sbin/sshd", w.dir+"/ssh")
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+unpacked+"/usr/lib/x86_64-linux-gnu")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(w.dir + "/ssh/log")
	if err == nil {
		cmd.Stderr = log
		err = startApart(cmd)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		log.Close()
	})
	w.soon("sshd listens", func() bool {
		b, err := os.ReadFile(log.Name())
		return err == nil && strings.Contains(string(b), "Server listening on 127.0.0.1")
	})
}

// testContextOverSSH: a docker context whose host is reached by ssh, where nothing of teu listens
// but its socket.
func testContextOverSSH(t *testing.T, w *world) {
	w.sshd()
	w.env = append(slices.Clone(w.env), "DOCKER_HOST=", "PATH="+w.dir+"/ssh/near:"+os.Getenv("PATH"))
	w.docker("context", "create", "far", "--docker", "host=ssh://root@127.0.0.1:2222")
	far := func(args ...string) string {
		t.Helper()
		return w.within(append([]string{"docker", "--context", "far"}, args...)...)
	}
	if got := far("run", "--rm", "busybox", "echo", "over ssh"); got != "over ssh" {
		t.Errorf("run: %q", got)
	}
	far("run", "-d", "--name", "far", "busybox", "sleep", "1000")
	if got := w.within("sh", "-c", "head -c 300000 /dev/zero | docker --context far exec -i far wc -c"); got != "300000" {
		t.Errorf("of 300000 bytes %q came", got)
	}
	if got := far("ps", "--format", "{{.Names}}"); got != "far" {
		t.Errorf("ps: %q", got)
	}
	if got := w.run("env", "DOCKER_HOST=unix://"+w.socket(), "docker", "ps", "--format", "{{.Names}}"); got != "far" {
		t.Errorf("ps beside ssh: %q", got)
	}
	far("rm", "-f", "far")
}
