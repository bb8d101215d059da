package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	s3User     = "teubench"
	s3Password = "teubenchsecret"
	s3Replicas = 3
)

// s3Share is the part of a core, in percent, that each server may use in the second figure.
const s3Share = 20

// measureRegistryS3 compares three servers of a bucket with one. The store is the Versity S3
// Gateway on a directory.
func measureRegistryS3(ctx context.Context, b *bench) error {
	store, stop, err := b.versity(ctx)
	if err != nil {
		return err
	}
	defer stop()
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": s3User, "AWS_SECRET_ACCESS_KEY": s3Password} {
		if err := os.Setenv(name, value); err != nil { // for the servers
			return err
		}
	}
	var addresses []string
	var pids []int
	for range s3Replicas {
		address, err := freePort()
		if err != nil {
			return err
		}
		stop, err := b.daemon(ctx, dialable("tcp", address), b.teu, "serve", "registry", "--addr", address, "--s3", store, "--s3-region", "us-east-1", "--gc-interval", "0")
		if err != nil {
			return err
		}
		defer stop()
		addresses, pids = append(addresses, address), append(pids, b.daemonPID)
	}
	whole, err := b.pushToReplicas(ctx, addresses, 64, 200)
	if err != nil {
		return err
	}
	b.report.add(figure{title: "Registry on a bucket: 64 clients push small images", unit: "images per second", more: true, results: whole,
		note: "Clients, servers and the Versity S3 Gateway share two cores; the store takes half of what is used, so that more servers cannot do much more here."})
	for _, pid := range pids {
		release, err := limitCPU(pid, s3Share)
		if err != nil {
			return err
		}
		defer release()
	}
	shares, err := b.pushToReplicas(ctx, addresses, 16, 400)
	if err != nil {
		return err
	}
	b.report.add(figure{title: fmt.Sprintf("Registry on a bucket: 16 clients, each server with %d %% of a core", s3Share), unit: "images per second", more: true, results: shares,
		note: "The store is not the limit here: it has more than a core to itself."})
	return nil
}

// pushToReplicas has clients push small images to all servers, and to one.
func (b *bench) pushToReplicas(ctx context.Context, addresses []string, clients, seed int) ([]result, error) {
	three, one := result{tool: "teu, three servers"}, result{tool: "teu, one server"}
	for round := range b.registryRounds() {
		for r, to := range map[*result][]string{&three: addresses, &one: addresses[:1]} {
			n, _, err := load(ctx, clients, 3*time.Second, to, pushSmall(seed+10*round+len(to)))
			if err != nil {
				return nil, err
			}
			r.values = append(r.values, n)
		}
	}
	return []result{three, one}, nil
}

// limitCPU gives a process so many percent of one core, in a cgroup of its own, until release.
func limitCPU(pid, percent int) (release func(), err error) {
	const period = 20_000 // microseconds
	quota := period * percent / 100
	dir := "/sys/fs/cgroup"
	files := map[string]string{"cpu.max": fmt.Sprint(quota, " ", period)}
	if _, err := os.Stat("/sys/fs/cgroup/cpu/cgroup.procs"); err == nil { // version 1
		dir = "/sys/fs/cgroup/cpu"
		files = map[string]string{"cpu.cfs_period_us": fmt.Sprint(period), "cpu.cfs_quota_us": fmt.Sprint(quota)}
	}
	back := filepath.Join(dir, "cgroup.procs")
	dir = filepath.Join(dir, fmt.Sprint("teu-bench-", pid))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	release = func() {
		_ = os.WriteFile(back, []byte(fmt.Sprint(pid)), 0o644)
		_ = os.Remove(dir)
	}
	for name, value := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o644); err != nil {
			release()
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(pid)), 0o644); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// versity starts an S3 server and returns the URL of a place in it.
func (b *bench) versity(ctx context.Context) (url string, stop func(), err error) {
	address, err := freePort()
	if err != nil {
		return "", nil, err
	}
	dir := filepath.Join(b.dir, "s3")
	if err := os.MkdirAll(filepath.Join(dir, "registry"), 0o755); err != nil { // a bucket
		return "", nil, err
	}
	stop, err = b.daemon(ctx, func() error {
		resp, err := http.Get("http://" + address)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}, filepath.Join(b.peers, "versitygw"), "--port", address, "--quiet", "--access", s3User, "--secret", s3Password, "posix", dir)
	if err != nil {
		return "", nil, fmt.Errorf("versitygw: %w", err)
	}
	return "http://" + address + "/registry/bench", stop, nil
}
