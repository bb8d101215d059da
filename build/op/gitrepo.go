package op

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/statefile"
)

// A gitRepo is a bare repository on this machine with what was fetched of a remote one. It is
// locked while it is open.
type gitRepo struct {
	dir    string // "" for questions to a remote
	tree   string // where files are checked out
	env    []string
	remote string
	log    io.Writer // told what git says; may be nil
	hint   string    // what would help if the remote wants to know who asks; may be ""
	unlock func() error
	extra  []func() error
}

func (r *gitRepo) close() error {
	var errs []error
	for _, f := range r.extra {
		errs = append(errs, f())
	}
	if r.unlock != nil {
		errs = append(errs, r.unlock())
	}
	return errors.Join(errs...)
}

// open opens the repository of the remote, which is made if needed.
func (o *gitOp) open(ctx context.Context) (_ *gitRepo, err error) {
	parent := o.env.gitRoot()
	scratch := filepath.Join(parent, "tmp")
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return nil, err
	}
	if err := statefile.SweepScratch(scratch); err != nil {
		return nil, err
	}
	name := filepath.Join(parent, repoPrefix+digest.FromString(o.remote).Encoded())
	r, err := o.session(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if r.unlock, err = statefile.Lock(ctx, name+".lock", statefile.LockOptions{}); err != nil {
		return nil, err
	}
	r.dir = name
	now := time.Now()
	if err := os.Chtimes(name+".lock", now, now); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(name, "HEAD")); err == nil {
		return r, nil
	}
	return r, o.init(ctx, r)
}

// init makes the repository anew.
func (o *gitOp) init(ctx context.Context, r *gitRepo) error {
	made := *r // under another name until it is whole
	made.dir += ".new"
	if err := errors.Join(os.RemoveAll(r.dir), os.RemoveAll(made.dir)); err != nil {
		return err
	}
	format := "--object-format=sha1"
	if len(o.commit) == 64 {
		format = "--object-format=sha256"
	}
	if _, err := made.git(ctx, "-c", "init.defaultBranch=master", "init", "--bare", format); err != nil {
		return err
	}
	if _, err := made.git(ctx, "remote", "add", "origin", o.remote); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(made.dir, "description"), []byte(redact(o.remote)), 0o600); err != nil {
		return err
	}
	return os.Rename(made.dir, r.dir)
}

// session prepares the environment of git: nothing of this machine's configuration, no question to
// a terminal, no transport but those of the network, no hooks.
func (o *gitOp) session(ctx context.Context) (r *gitRepo, err error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("sources in git need the program git: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	r = &gitRepo{remote: o.remote}
	ssh := "ssh -F /dev/null -o BatchMode=yes"
	if o.knownHosts == "" {
		ssh += " -o StrictHostKeyChecking=no"
	} else {
		file, err := o.knownHostsFile(r)
		if err != nil {
			return nil, err
		}
		ssh += " -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + file
	}
	r.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/dev/null", "LC_ALL=C", "GIT_SSH_COMMAND=" + ssh,
		"GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_LFS_SKIP_SMUDGE=1",
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"} {
		if v, ok := os.LookupEnv(name); ok {
			r.env = append(r.env, name+"="+v)
		}
	}
	if o.ssh != "" {
		if err := o.agent(ctx, r); err != nil {
			return nil, errors.Join(err, r.close())
		}
		if _, ok := o.env.agent(ctx, o.ssh); !ok {
			r.hint = "give the build your SSH agent or a key: `--ssh " + o.ssh + "`"
		}
	}
	// Settings in the environment win over those of a repository, and are seen by nobody else.
	settings := [][2]string{
		{"protocol.allow", "never"}, {"protocol.https.allow", "always"}, {"protocol.http.allow", "always"},
		{"protocol.ssh.allow", "always"}, {"protocol.git.allow", "always"},
		{"core.hooksPath", "/dev/null"}, {"core.fsmonitor", "false"}, {"safe.directory", "*"},
		{"gc.auto", "0"}, {"maintenance.auto", "false"},
	}
	if o.advice {
		r.env = append(r.env, "GIT_ADVICE=1")
	} else {
		r.env = append(r.env, "GIT_ADVICE=0")
		settings = append(settings, [2]string{"advice.detachedHead", "false"}) // for git before 2.46
	}
	auth, err := o.authorization(ctx)
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	if auth == "" && o.ssh == "" && o.token != "" {
		r.hint = "if the repository is not public, give the build a token: `--secret id=" + o.token + "`"
	}
	if auth != "" {
		settings = append(settings, [2]string{"http." + tokenScope(o.remote) + ".extraheader", "Authorization: " + auth})
	}
	r.env = append(r.env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(settings)))
	for i, kv := range settings {
		r.env = append(r.env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	return r, nil
}

// agent gives git the agent that the user gave.
func (o *gitOp) agent(ctx context.Context, r *gitRepo) error {
	a, ok := o.env.agent(ctx, o.ssh)
	if !ok {
		return nil
	}
	socket := a.Socket
	if socket == "" {
		dir, err := os.MkdirTemp(o.env.RunDir, "ssh-git-")
		if err != nil {
			return err
		}
		socket = filepath.Join(dir, "s")
		proxy, err := listenAgent(socket, a)
		if err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		r.extra = append(r.extra, proxy.close, func() error { return os.RemoveAll(dir) })
	}
	r.env = append(r.env, "SSH_AUTH_SOCK="+socket)
	return nil
}

func (o *gitOp) knownHostsFile(r *gitRepo) (string, error) {
	f, err := os.CreateTemp(o.env.RunDir, "known-hosts-")
	if err != nil {
		return "", err
	}
	r.extra = append(r.extra, func() error { return os.Remove(f.Name()) })
	_, err = f.WriteString(o.knownHosts)
	return f.Name(), errors.Join(err, f.Close())
}

// tokenScope is where credentials are good for; submodules on github.com get them too, as with
// BuildKit.
func tokenScope(remote string) string {
	for _, prefix := range []string{"https://github.com/", "https://www.github.com/"} {
		if strings.HasPrefix(remote, prefix) {
			return prefix
		}
	}
	return remote
}

// authorization returns the header to send, from the first secret of these that the user gave.
func (o *gitOp) authorization(ctx context.Context) (string, error) {
	u, err := url.Parse(o.remote)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return "", nil //nolint:nilerr // ssh needs none
	}
	for _, s := range []struct {
		id    string
		token bool
	}{{o.header + "." + u.Host, false}, {o.token + "." + u.Host, true}, {o.header, false}, {o.token, true}} {
		if strings.TrimSuffix(s.id, "."+u.Host) == "" {
			continue
		}
		value, err := o.env.secret(ctx, s.id)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return "", err
		}
		text := strings.TrimSpace(string(value))
		if s.token {
			text = "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+text))
		}
		return text, nil
	}
	return "", nil
}

const shallow = "--depth=1"

// git runs git with a standard umask and returns its output, trimmed. A server of plain files cannot cut a
// history off: then it is asked for the whole.
func (r *gitRepo) git(ctx context.Context, args ...string) (string, error) {
	out, err := r.raw(ctx, args...)
	return strings.TrimSpace(out), err
}

// raw is git with the output as it is.
func (r *gitRepo) raw(ctx context.Context, args ...string) (string, error) {
	out, text, err := r.run(ctx, args)
	if err != nil && ctx.Err() == nil && slices.Contains(args, shallow) && (strings.Contains(text, "--depth") || strings.Contains(text, "shallow")) {
		args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == shallow })
		out, text, err = r.run(ctx, args)
	}
	if r.log != nil && text != "" {
		_, _ = io.WriteString(r.log, text)
	}
	if err != nil {
		failed := &gitError{command: gitCommand(args), said: strings.TrimSpace(text), err: err}
		if asksWho(text) {
			failed.hint = r.hint
		}
		return "", failed
	}
	return out, nil
}

// asksWho says whether what git said means that a server wants to know who asks.
func asksWho(text string) bool {
	return slices.ContainsFunc([]string{"Permission denied", "Authentication failed", "could not read Username"}, func(s string) bool { return strings.Contains(text, s) })
}

// run returns the output of git, and what it said to people.
func (r *gitRepo) run(ctx context.Context, args []string) (out, text string, err error) {
	// A shell sets the umask: it belongs to a process, and this one has other threads.
	argv := []string{"-c", `umask 022; exec git "$@"`, "git"}
	if r.tree != "" {
		argv = append(argv, "--work-tree", r.tree)
	}
	if r.dir != "" {
		argv = append(argv, "--git-dir", r.dir)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", append(argv, args...)...)
	cmd.Env = r.env
	cmd.Dir = r.tree
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	output, said := &gitOutput{}, &gitTalk{}
	cmd.Stdout, cmd.Stderr = output, said
	if err = cmd.Run(); output.over != nil {
		err = output.over // not that git could not write
	}
	return output.String(), strings.ReplaceAll(said.String(), r.remote, redact(r.remote)), err
}

// Of what git writes a remote decides how much it is: names of refs, objects, and what is said to people.
const (
	maxGitOutput = 32 << 20 // bytes of an answer; a commit or tag may be a large object
	maxGitTalk   = 64 << 10 // bytes kept of the rest, the last ones, which say what went wrong
)

// gitOutput is an answer of git, which ends it if it is too large.
type gitOutput struct {
	kept bytes.Buffer // not embedded: os/exec would read into it directly
	over error
}

func (o *gitOutput) Write(b []byte) (int, error) {
	if o.kept.Len()+len(b) > maxGitOutput {
		o.over = fmt.Errorf("an answer of more than %d bytes: %w", maxGitOutput, errdefs.ErrResourceExhausted)
		return 0, o.over
	}
	return o.kept.Write(b)
}

func (o *gitOutput) String() string { return o.kept.String() }

// gitTalk keeps the end of what git says.
type gitTalk struct{ kept []byte }

func (t *gitTalk) Write(b []byte) (int, error) {
	if t.kept = append(t.kept, b...); len(t.kept) > 2*maxGitTalk {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-maxGitTalk:]...)
	}
	return len(b), nil
}

func (t *gitTalk) String() string { return string(t.kept[max(0, len(t.kept)-maxGitTalk):]) }

func gitCommand(args []string) string {
	for len(args) > 1 && args[0] == "-c" {
		args = args[2:]
	}
	return args[0]
}

// A gitError is git that failed.
type gitError struct {
	command, said string
	hint          string
	err           error
}

func (e *gitError) Error() string { return fmt.Sprintf("git %s: %v: %s", e.command, e.err, e.said) }
func (e *gitError) Unwrap() error { return e.err }
func (e *gitError) Hint() string  { return e.hint }
