// Command reaper stands in for testcontainers/ryuk, whose image no test may pull: it speaks
// ryuk's protocol and asks the engine for what ryuk asks, with the same client.
//
// A client connects to port 8080 and sends lines such as "label=a=b&label=c=d", each of which
// is answered with "ACK". When the last client has gone, everything that carries all labels
// of a line is removed, and the reaper ends.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/moby/moby/client"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "reaper:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	api, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer api.Close()
	if _, err := api.Ping(ctx, client.PingOptions{}); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	fmt.Println("Started") // what testcontainers waits for
	lines := collect(listener)
	for _, line := range lines {
		err = errors.Join(err, reap(ctx, api, line))
	}
	return err
}

// collect answers clients until there has been none for the time that the environment says,
// and returns the lines they sent.
func collect(listener net.Listener) (lines []string) {
	var mu sync.Mutex
	clients := 0
	idle := time.AfterFunc(duration("RYUK_CONNECTION_TIMEOUT", time.Minute), func() { listener.Close() })
	for {
		conn, err := listener.Accept()
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			return lines
		}
		go func() {
			defer conn.Close()
			in := bufio.NewScanner(conn)
			if !in.Scan() {
				return // it only looked whether the port is open
			}
			mu.Lock()
			clients++
			idle.Stop()
			mu.Unlock()
			for more := true; more; more = in.Scan() {
				mu.Lock()
				lines = append(lines, in.Text())
				mu.Unlock()
				fmt.Fprintln(conn, "ACK")
			}
			mu.Lock()
			defer mu.Unlock()
			if clients--; clients == 0 {
				idle.Reset(duration("RYUK_RECONNECTION_TIMEOUT", 10*time.Second))
			}
		}()
	}
}

func duration(variable string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(os.Getenv(variable)); err == nil {
		return d
	}
	return otherwise
}

// reap removes the containers, networks, volumes and images that a line selects, but no reaper.
func reap(ctx context.Context, api *client.Client, line string) (err error) {
	query, err := url.ParseQuery(line)
	if err != nil {
		return err
	}
	chosen := make(client.Filters)
	for key, values := range query {
		chosen.Add(key, values...)
	}
	containers, err := api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: chosen})
	for _, c := range containers.Items {
		if c.Labels["org.testcontainers.ryuk"] != "true" {
			_, e := api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{RemoveVolumes: true, Force: true})
			err = errors.Join(err, e)
		}
	}
	networks, e := api.NetworkList(ctx, client.NetworkListOptions{Filters: chosen})
	err = errors.Join(err, e)
	for _, item := range networks.Items {
		_, e := api.NetworkRemove(ctx, item.ID, client.NetworkRemoveOptions{})
		err = errors.Join(err, e)
	}
	volumes, e := api.VolumeList(ctx, client.VolumeListOptions{Filters: chosen})
	err = errors.Join(err, e)
	for _, item := range volumes.Items {
		_, e := api.VolumeRemove(ctx, item.Name, client.VolumeRemoveOptions{Force: true})
		err = errors.Join(err, e)
	}
	images, e := api.ImageList(ctx, client.ImageListOptions{Filters: chosen})
	err = errors.Join(err, e)
	for _, item := range images.Items {
		_, e := api.ImageRemove(ctx, item.ID, client.ImageRemoveOptions{PruneChildren: true})
		err = errors.Join(err, e)
	}
	return err
}
