package oci

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What enters a container cannot be looked at from there before it is the command (CVE-2016-9962): it is not
// dumpable from before it enters a namespace, and each process it forks begins so too.
func TestExecIsHidden(t *testing.T) {
	s := &specs.Spec{Version: specs.Version, Root: &specs.Root{Path: "/"}, Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
	}}}
	p, err := CompileExec(s, &specs.Process{Args: []string{"/bin/true"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{}}, ExecOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const hide = "prctl(PR_SET_DUMPABLE, 0"
	text := p.String()
	before, after, ok := strings.Cut(text, "setns(")
	if !ok || !strings.Contains(before, hide) {
		t.Errorf("it enters namespaces before it is hidden:\n%s", text)
	}
	if _, child, ok := strings.Cut(after, "starting the process in the PID namespace"); !ok || !strings.Contains(child, hide) {
		t.Errorf("what it forks is not hidden:\n%s", text)
	}
}
