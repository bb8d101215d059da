package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// measurePorts takes what a published port costs against the container's own address.
func measurePorts(ctx context.Context, b *bench) error {
	if err := b.busyboxImage(ctx); err != nil {
		return err
	}
	defer b.must(ctx, b.teu, "system", "reset", "--force")
	self, err := os.Executable()
	if err != nil {
		return err
	}
	address, err := freePort()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(address)
	if err := b.must(ctx, b.teu, "run", "-d", "--name", "web", "-p", port+":80", "-v", self+":/bench:ro", "busybox", "/bench", "-serve", ":80"); err != nil {
		return err
	}
	defer b.must(ctx, b.teu, "rm", "-f", "web")
	out, err := b.command(ctx, b.teu, "inspect", "-f", "{{.NetworkSettings.IPAddress}} {{.NetworkSettings.Gateway}}", "web").Output()
	if err != nil {
		return err
	}
	own, host, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	for up := dialable("tcp", own+":80"); up() != nil; time.Sleep(20 * time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	doors := []struct{ name, address string }{
		{"the container's own address", own + ":80"},
		{"port published on the host's address", host + ":" + port},
		{"port published on 127.0.0.1", "127.0.0.1:" + port},
	}
	bytes, requests := make([]result, len(doors)), make([]result, len(doors))
	for round := range 1 + max(3, b.rounds/4) { // the first does not count
		for i, d := range doors {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}}
			rates := [2]float64{}
			for k, path := range []string{"/bulk", "/"} {
				n, err := pull(ctx, client, "http://"+d.address+path, []int{1, 16}[k])
				if err != nil {
					return fmt.Errorf("%s: %w", d.name, err)
				}
				rates[k] = n
			}
			client.CloseIdleConnections()
			bytes[i].tool, requests[i].tool = d.name, d.name
			if round > 0 {
				bytes[i].values, requests[i].values = append(bytes[i].values, rates[0]/1e6), append(requests[i].values, rates[1]/2)
			}
		}
	}
	b.report.add(figure{title: "teu: throughput of a published port", unit: "MB per second", more: true, note: "One HTTP connection; client, server and what is between share the two cores.", results: bytes})
	b.report.add(figure{title: "teu: requests to a published port", unit: "per second", more: true, note: "16 connections, kept alive, two bytes each.", results: requests})
	return nil
}

// pull gets a URL again and again for a second and returns bytes per second.
func pull(ctx context.Context, client *http.Client, url string, connections int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var sum atomic.Int64
	var wg sync.WaitGroup
	var failure atomic.Value
	from := time.Now()
	for range connections {
		wg.Go(func() {
			buf := make([]byte, 256<<10)
			for ctx.Err() == nil {
				req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
				resp, err := client.Do(req)
				for err == nil {
					var n int
					n, err = resp.Body.Read(buf)
					sum.Add(int64(n))
				}
				if resp != nil {
					resp.Body.Close()
				}
				if err != io.EOF && ctx.Err() == nil {
					failure.Store(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err, ok := failure.Load().(error); ok {
		return 0, err
	}
	return float64(sum.Load()) / time.Since(from).Seconds(), nil
}

// serve is the server in the container.
func serve(address string) error {
	bulk := make([]byte, 1<<20)
	http.HandleFunc("/bulk", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(bulk); err != nil {
				return
			}
		}
	})
	http.HandleFunc("/sink", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 256<<10))
		fmt.Fprint(w, n)
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	return http.ListenAndServe(address, nil)
}
