package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// measureRootless takes what a connection of an ordinary user's container to another host
// gets through, in a network namespace whose loopback is that host.
func measureRootless(ctx context.Context, b *bench) error {
	u, err := b.newUser(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(u.dir)
	const ns, url = "teu-bench", "http://10.9.0.1"
	inside := []string{"ip", "netns", "exec", ns}
	if err := b.must(ctx, "ip", "netns", "add", ns); err != nil {
		return err
	}
	defer b.must(context.WithoutCancel(ctx), "ip", "netns", "del", ns)
	for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", "10.9.0.1/32", "dev", "lo"}} {
		if err := b.must(ctx, "ip", append([]string{"-n", ns}, args...)...); err != nil {
			return err
		}
	}
	client := append(inside, filepath.Join(u.dir, "bench"), "-rates", url)
	stop, err := b.daemon(ctx, func() error { return b.must(ctx, client[0], client[1:]...) }, append(inside, filepath.Join(u.dir, "bench"), "-serve", "10.9.0.1:80")...)
	if err != nil {
		return err
	}
	defer stop()
	teu := func(args ...string) []string {
		return append(append(inside[:len(inside):len(inside)], u.teu...), args...)
	}
	load := teu("import", filepath.Join(u.dir, "busybox.tar"), "busybox")
	if err := b.must(ctx, load[0], load[1:]...); err != nil {
		return err
	}
	reset := teu("system", "reset", "--force")
	defer b.must(context.WithoutCancel(ctx), reset[0], reset[1:]...)

	tools := []struct {
		name string
		args []string
	}{
		{"teu", teu("run", "--rm", "-v", filepath.Join(u.dir, "bench")+":/bench:ro", "busybox", "/bench", "-rates", url)},
		{"no container", client},
	}
	in, out := make([]result, len(tools)), make([]result, len(tools))
	for round := range 1 + max(3, b.rounds/2) { // the first does not count
		for i, t := range tools {
			text, err := b.command(ctx, t.args[0], t.args[1:]...).Output()
			var down, up float64
			if err == nil {
				_, err = fmt.Sscan(string(text), &down, &up)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			in[i].tool, out[i].tool = t.name, t.name
			if round > 0 {
				in[i].values, out[i].values = append(in[i].values, down), append(out[i].values, up)
			}
		}
	}
	note := "One connection between a container of an ordinary user and another host, at an MTU of 1500; \"no container\" is the same over the loopback. Client, server and what is between share the two cores."
	b.report.add(figure{title: "Without root: out of a container", unit: "Gbit/s", more: true, note: note, results: out})
	b.report.add(figure{title: "Without root: into a container", unit: "Gbit/s", more: true, note: note, results: in})
	return nil
}

// user is an ordinary user with a copy of what it needs.
type user struct {
	dir string
	teu []string // how it calls teu
}

func (b *bench) newUser(ctx context.Context) (u user, err error) {
	const id = "64901" // nobody's
	self, err := os.Executable()
	if err != nil {
		return u, err
	}
	tar, err := b.busyboxTar()
	if err != nil {
		return u, err
	}
	if u.dir, err = os.MkdirTemp("/dev/shm", "teu-bench-user-"); err != nil {
		return u, err
	}
	script := `set -e; chmod 711 "$1"; cd "$1"; cp "$2" bench; cp "$3" teu; cp "$4" busybox.tar
chmod 755 bench teu busybox.tar; install -d -m 700 -o "$5" -g "$5" root run`
	if err := b.must(ctx, "sh", "-c", script, "sh", u.dir, self, b.teu, tar, id); err != nil {
		os.RemoveAll(u.dir)
		return u, err
	}
	u.teu = []string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "env", "HOME=/",
		"TEU_ROOT=" + filepath.Join(u.dir, "root"), "TEU_RUN_ROOT=" + filepath.Join(u.dir, "run"), filepath.Join(u.dir, "teu")}
	return u, nil
}

// rates prints how much a server's answer and a request to it get through, in Gbit/s.
func rates(url string) error {
	ctx := context.Background()
	down, err := pull(ctx, http.DefaultClient, url+"/bulk", 1)
	if err != nil {
		return err
	}
	body := &flood{until: time.Now().Add(time.Second)}
	from := time.Now()
	resp, err := http.Post(url+"/sink", "application/octet-stream", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err == nil && string(got) != strconv.FormatInt(body.n, 10) {
		err = fmt.Errorf("%d bytes were sent and %s came", body.n, got)
	}
	fmt.Println(down*8/1e9, float64(body.n)*8/1e9/time.Since(from).Seconds())
	return err
}

// flood is a body that ends with the time.
type flood struct {
	until time.Time
	n     int64
}

func (f *flood) Read(b []byte) (int, error) {
	if time.Now().After(f.until) {
		return 0, io.EOF
	}
	clear(b)
	f.n += int64(len(b))
	return len(b), nil
}

// WriteTo writes more at a time than HTTP would.
func (f *flood) WriteTo(w io.Writer) (n int64, err error) {
	b := make([]byte, 256<<10)
	for err == nil {
		var k int
		if k, err = f.Read(b); err == nil {
			k, err = w.Write(b[:k])
			n += int64(k)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}
