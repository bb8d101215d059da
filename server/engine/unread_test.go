package engine_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
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
	exec := func(command string) string {
		_, made := w.api("POST", "/containers/"+id+"/exec", `{"AttachStdin":true,"AttachStdout":true,"Cmd":["sh","-c","`+command+`"]}`)
		_, exec, _ := strings.Cut(made, `"Id":"`)
		exec, _, _ = strings.Cut(exec, `"`)
		return exec
	}
	conn, resp, err := w.post("/v1.50/exec/"+exec("echo said")+"/start", "Connection: Upgrade\r\nUpgrade: tcp\r\n", `{"Tty":true}`)
	if err != nil {
		t.Fatal(resp, err)
	}
	defer conn.Close()
	go io.WriteString(conn, input)
	if b, err := io.ReadAll(conn); err != nil {
		t.Errorf("%q, %v", b, err)
	}
	// One that has nothing to say ends its input with the request, and reads on.
	w.docker("run", "--name", "talker", "busybox", "echo", "said")
	for path, body := range map[string]string{
		"/exec/" + exec("cat; sleep 0.3; echo said") + "/start": "{}", "/containers/talker/attach?logs=1&stdout=1": "",
	} {
		conn, err := net.Dial("unix", w.socket())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(b), "\x01\x00\x00\x00\x00\x00\x00\x05said\n") {
			t.Errorf("%s, half-closed: %q, %v", path, b, err)
		}
	}
	w.docker("rm", "talker")
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

// TestHeadIsAlone: nothing of a stream comes in one read with the head of the answer, however
// late the client reads. docker's client for Python loses what does.
func TestHeadIsAlone(t *testing.T) {
	w := newWorld(t)
	w.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo said; exec sleep 1000")
	defer w.docker("rm", "-f", "box")
	_, made := w.api("POST", "/containers/box/exec", `{"AttachStdout":true,"Cmd":["echo","said"]}`)
	_, exec, _ := strings.Cut(made, `"Id":"`)
	exec, _, _ = strings.Cut(exec, `"`)
	for path, body := range map[string]string{
		"/exec/" + exec + "/start": "{}", "/containers/box/attach?logs=1&stdout=1&stream=1": "",
	} {
		conn, err := net.Dial("unix", w.socket())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
		conn.SetReadDeadline(time.Now().Add(limit))
		first := make([]byte, 1)
		if _, err := io.ReadFull(conn, first); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
		head := make([]byte, 8192)
		n, err := conn.Read(head)
		if err != nil || !strings.HasSuffix(string(head[:n]), "\r\n\r\n") {
			t.Errorf("%s: with the head came %q, %v", path, head[:n], err)
		}
		stream := make([]byte, 13)
		if _, err := io.ReadFull(conn, stream); err != nil || string(stream[8:]) != "said\n" {
			t.Errorf("%s: then came %q, %v", path, stream, err)
		}
	}
}
