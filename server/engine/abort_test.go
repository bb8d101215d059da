package engine_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// daemon is what a server holds.
type daemon struct{ NFd, NGoroutines, kilobytes int }

func (w *world) daemon() (d daemon) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(w.docker("info", "-f", "{{json .}}")), &d); err != nil {
		w.t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.server.Process.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			fmt.Sscan(rest, &d.kilobytes)
		}
	}
	return d
}

// post sends a request and returns the connection after the head of the answer.
func (w *world) post(path, headers, body string) (net.Conn, *http.Response, error) {
	conn, err := net.Dial("unix", w.socket())
	if err != nil {
		return nil, nil, err
	}
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", path, headers, len(body), body)
	conn.SetReadDeadline(time.Now().Add(limit))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	return conn, resp, err
}

// TestAbortedStreams: clients that vanish in the middle of an attach, an exec, a wait, a
// resize or a log leave nothing in the server (CVE-2022-23471, CVE-2025-64329).
func TestAbortedStreams(t *testing.T) {
	w := newWorld(t)
	w.docker("run", "-dit", "--name", "tty", "busybox", "cat")
	w.docker("run", "-di", "--name", "pipes", "busybox", "sh", "-c", "while :; do echo tick; sleep 0.05; done")
	w.docker("create", "-i", "--name", "made", "busybox", "cat")
	count := 500
	if os.Getenv("TEU_SOAK") != "" {
		count = 10000
	}
	const upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
	const streams = "?stream=1&stdin=1&stdout=1&stderr=1"
	abort := func(i int) error {
		name := []string{"tty", "pipes", "made"}[i%3]
		switch i % 6 {
		case 0, 1: // attach
			conn, resp, err := w.post("/v1.50/containers/"+name+"/attach"+streams, upgrade, "")
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				return fmt.Errorf("attach: %v, %w", resp, err)
			}
			io.WriteString(conn, "input")
			return conn.Close()
		case 2: // exec, which goes on for a moment
			name = []string{"tty", "pipes"}[i%2]
			conn, resp, err := w.post("/v1.50/containers/"+name+"/exec", "", `{"AttachStdin":true,"AttachStdout":true,"Cmd":["sleep","0.2"]}`)
			if err != nil || resp.StatusCode != http.StatusCreated {
				return fmt.Errorf("exec: %v, %w", resp, err)
			}
			var made struct{ ID string }
			err = json.NewDecoder(resp.Body).Decode(&made)
			conn.Close()
			if err != nil {
				return err
			}
			if conn, resp, err = w.post("/v1.50/exec/"+made.ID+"/start", upgrade, "{}"); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				return fmt.Errorf("exec start: %v, %w", resp, err)
			}
			return conn.Close()
		case 3: // wait, whose head comes at once
			conn, resp, err := w.post("/v1.50/containers/"+name+"/wait?condition=next-exit", "", "")
			if err != nil || resp.StatusCode != http.StatusOK {
				return fmt.Errorf("wait: %v, %w", resp, err)
			}
			return conn.Close()
		case 4: // attach by a websocket, with and without input
			name = []string{"tty", "pipes", "made"}[i/6%3]
			conn, err := net.Dial("unix", w.socket())
			if err != nil {
				return err
			}
			fmt.Fprintf(conn, "GET /v1.50/containers/%s/attach/ws?stream=1&stdin=%d&stdout=1 HTTP/1.1\r\nHost: docker\r\nOrigin: http://docker\r\n"+
				"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", name, i/18%2)
			conn.SetReadDeadline(time.Now().Add(limit))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				return fmt.Errorf("attach by a websocket: %v, %w", resp, err)
			}
			return conn.Close()
		}
		conn, err := net.Dial("unix", w.socket())
		if err != nil {
			return err
		}
		fmt.Fprintf(conn, "GET /v1.50/containers/%s/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: docker\r\n\r\n", name)
		time.Sleep(rand.N(time.Millisecond))
		return conn.Close()
	}
	var before daemon
	for i := range count {
		if i == count/5 { // what is kept for reuse is there by now
			time.Sleep(time.Second)
			before = w.daemon()
		}
		if err := abort(i); err != nil {
			t.Fatal(err)
		}
	}
	var after daemon
	w.soon("descriptors and goroutines are as before", func() bool {
		after = w.daemon()
		return after.NFd <= before.NFd+2 && after.NGoroutines <= before.NGoroutines+4
	})
	if t.Logf("before %+v, after %+v", before, after); after.kilobytes > before.kilobytes+16<<10 {
		t.Errorf("memory grew from %d to %d kB", before.kilobytes, after.kilobytes)
	}
	w.want("tick", "logs", "--tail", "1", "pipes") // and the containers are well
	w.docker("rm", "-f", "tty", "pipes", "made")
}
