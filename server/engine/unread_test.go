package engine_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// TestUnreadInput: a client whose input nobody reads sees the end of the output and no reset
// of its connection.
func TestUnreadInput(t *testing.T) {
	w := newWorld(t)
	input := strings.Repeat("nobody reads this\n", 1<<16) // more than pipes and sockets hold
	w.docker("run", "-d", "--name", "box", "busybox", "sleep", "1000")
	for _, args := range [][]string{
		{"exec", "-i", "box", "echo", "said"},
		{"run", "-i", "--rm", "--network", "none", "busybox", "echo", "said"},
	} {
		if out, errs, code := w.tryIn(input, "docker", args...); out != "said\n" || errs != "" || code != 0 {
			t.Errorf("docker %s: %q, %q, %d", args, out, errs, code)
		}
	}
	id := strings.TrimSpace(w.run("docker", "inspect", "-f", "{{.Id}}", "box"))
	_, made := w.api("POST", "/containers/"+id+"/exec", `{"AttachStdin":true,"AttachStdout":true,"Cmd":["echo","said"]}`)
	_, exec, _ := strings.Cut(made, `"Id":"`)
	exec, _, _ = strings.Cut(exec, `"`)
	conn, resp, err := w.post("/v1.50/exec/"+exec+"/start", "Connection: Upgrade\r\nUpgrade: tcp\r\n", `{"Tty":true}`)
	if err != nil {
		t.Fatal(resp, err)
	}
	defer conn.Close()
	go io.WriteString(conn, input)
	if b, err := io.ReadAll(conn); err != nil {
		t.Errorf("%q, %v", b, err)
	}
	put, err := net.Dial("unix", w.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer put.Close()
	archive := strings.Repeat("\x00", 64<<10) // its end, and what fills it up
	fmt.Fprintf(put, "PUT /containers/%s/archive?path=/ HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", id, len(archive), archive)
	if b, err := io.ReadAll(put); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 OK\r\n") {
		t.Errorf("an archive: %q, %v", b, err)
	}
	w.docker("rm", "-f", "box")
}
