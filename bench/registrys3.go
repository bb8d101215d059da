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
		addresses = append(addresses, address)
	}
	three, one := result{tool: "teu, three servers"}, result{tool: "teu, one server"}
	for round := range b.registryRounds() {
		for r, to := range map[*result][]string{&three: addresses, &one: addresses[:1]} {
			n, _, err := load(ctx, 64, 3*time.Second, to, pushSmall(200+10*round+len(to)))
			if err != nil {
				return err
			}
			r.values = append(r.values, n)
		}
	}
	b.report.add(figure{title: "Registry on a bucket: 64 clients push small images", unit: "images per second", more: true, results: []result{three, one},
		note: "Clients, servers and the Versity S3 Gateway share two cores, so that more servers cannot do much more here."})
	return nil
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
