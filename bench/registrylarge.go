package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func randomBlob(size int, seed uint64) []byte {
	blob := make([]byte, size)
	random := rand.NewPCG(seed, 2)
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(blob[i:], random.Uint64())
	}
	return blob
}

// measureRegistryLarge compares reads of large blobs, also with a server that does nothing but
// sendfile(2), and uploads.
func measureRegistryLarge(ctx context.Context, b *bench) error {
	servers, stop, err := b.registries(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := b.measureBlobs(ctx, servers); err != nil {
		return err
	}
	return b.measureUploads(ctx, servers)
}

// blobGets are the figures of reads.
var blobGets = []struct{ megabytes, clients int }{{1, 8}, {100, 1}, {100, 8}}

// Reads swing by a third within a second, for the client and the kernel's work want the same
// two cores. So the servers take turns in short slices, many times.
const (
	sliceTime  = 250 * time.Millisecond
	sliceCount = 7 // of each server in a round
)

func (b *bench) measureBlobs(ctx context.Context, servers []*registryServer) error {
	plain := &registryServer{tool: "sendfile"}
	paths, err := b.placeBlobs(servers, plain)
	if err != nil {
		return err
	}
	if plain.address, plain.stop, err = b.sendfileServer(ctx); err != nil {
		return err
	}
	defer plain.stop()
	servers = append(servers[:len(servers):len(servers)], plain)
	for _, g := range blobGets {
		t := table{}
		for range sliceCount * b.registryRounds() {
			for _, s := range servers {
				path := paths[fmt.Sprint(s.tool, g.megabytes)]
				n, _, err := load(ctx, g.clients, sliceTime, []string{s.address}, func(c *httpConn, _, _ int) (float64, error) {
					a, err := c.do("GET", path, "")
					return float64(a.length) / 1e6, err
				})
				if err != nil {
					return fmt.Errorf("%s: %w", s.tool, err)
				}
				t.add(s.tool, n)
			}
		}
		b.report.add(figure{title: fmt.Sprintf("Registry: GET of a blob of %d MB, %d at a time", g.megabytes, g.clients), unit: "MB per second", more: true,
			note: registryNote + " \"sendfile\" is a server that does nothing but sendfile(2).", results: t.of(servers)})
	}
	return nil
}

// placeBlobs gives every server a blob of 1 MB and one of 100 MB, and plain files of these. It
// returns the path of each at each server, by its tool and the MB.
func (b *bench) placeBlobs(servers []*registryServer, plain *registryServer) (paths map[string]string, err error) {
	paths = map[string]string{}
	for _, megabytes := range []int{1, 100} {
		blob := randomBlob(megabytes*1e6, 1)
		d := digest.FromBytes(blob)
		for _, s := range servers {
			c, err := dialHTTP(s.address)
			if err != nil {
				return nil, err
			}
			if err := c.pushBlob("bench/read", d, blob); err != nil {
				return nil, fmt.Errorf("%s: %w", s.tool, err)
			}
			c.Close()
			paths[fmt.Sprint(s.tool, megabytes)] = "/v2/bench/read/blobs/" + d.String()
		}
		file := filepath.Join(b.dir, fmt.Sprint("blob", megabytes))
		if err := os.WriteFile(file, blob, 0o600); err != nil {
			return nil, err
		}
		paths[fmt.Sprint(plain.tool, megabytes)] = file
	}
	return paths, nil
}

// sendfileServer starts a process that answers with files.
func (b *bench) sendfileServer(ctx context.Context) (address string, stop func(), err error) {
	if address, err = freePort(); err != nil {
		return "", nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	stop, err = b.daemon(ctx, dialable("tcp", address), self, "-sendfile", address)
	return address, stop, err
}

// serveSendfile is that process.
func serveSendfile(address string) error {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go sendfile(conn.(*net.TCPConn))
	}
}

// sendfile answers each request with the file of its path.
func sendfile(conn *net.TCPConn) {
	defer conn.Close()
	request := make([]byte, 4096) // comes in one piece
	for {
		n, err := conn.Read(request)
		if err != nil {
			return
		}
		f, err := os.Open(string(bytes.Fields(request[:n])[1]))
		if err != nil {
			return
		}
		st, err := f.Stat()
		if err == nil {
			_, err = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", st.Size())
		}
		if err == nil {
			_, err = conn.ReadFrom(f)
		}
		f.Close()
		if err != nil {
			return
		}
	}
}

// One upload takes half as long again as the next: the disk is a file in memory, written by the
// kernel beside client and server. So the servers take turns many times.
const (
	uploadClients = 4
	uploadSize    = 100e6
	uploadChunk   = 10e6
	uploadTurns   = 4 // of each server in a round
)

// measureUploads has clients push blobs that nobody has yet, each once in a round.
func (b *bench) measureUploads(ctx context.Context, servers []*registryServer) error {
	whole, chunks := table{}, table{}
	blobs := make([][]byte, uploadClients)
	digests := make([]digest.Digest, uploadClients)
	for i := range blobs {
		blobs[i] = randomBlob(uploadSize, uint64(i)+10)
	}
	for round := range uploadTurns * b.registryRounds() {
		for kind, t := range map[int]table{1: whole, 2: chunks} {
			for i := range blobs {
				blobs[i][0], blobs[i][1] = byte(round), byte(kind)
				digests[i] = digest.FromBytes(blobs[i])
			}
			for i := range servers {
				s := servers[(i+round)%len(servers)] // who comes first finds the disk as the removal has left it
				unix.Sync()                          // what the one before has not written is not this one's to wait for
				start := time.Now()
				err := each(ctx, s.address, uploadClients, func(c *httpConn, i int) error {
					repo := fmt.Sprint("bench/up", i)
					if kind == 1 {
						return c.pushBlob(repo, digests[i], blobs[i])
					}
					return c.pushChunks(repo, digests[i], uploadChunk, blobs[i])
				})
				if err != nil {
					return fmt.Errorf("%s: %w", s.tool, err)
				}
				t.add(s.tool, uploadClients*uploadSize/1e6/time.Since(start).Seconds())
			}
			if err := b.removeUploads(); err != nil {
				return err
			}
		}
	}
	note := registryNote + " New blobs, verified by the server; teu's are durable when it answers."
	b.report.add(figure{title: "Registry: upload of 4 blobs of 100 MB at a time", unit: "MB per second", more: true, note: note, results: whole.of(servers)})
	b.report.add(figure{title: "Registry: the same in chunks of 10 MB", unit: "MB per second", more: true, note: note, results: chunks.of(servers)})
	return nil
}

// removeUploads removes the blobs behind the servers' backs, for the disk would not hold those of
// all turns. None is uploaded twice.
func (b *bench) removeUploads() error {
	return filepath.WalkDir(b.dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // a temporary file of a server
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Size() >= uploadSize {
			err = os.Remove(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// each runs f once for each client.
func each(ctx context.Context, address string, clients int, f func(c *httpConn, i int) error) error {
	errs := make(chan error, clients)
	for i := range clients {
		go func() {
			c, err := dialHTTP(address)
			if err == nil {
				defer c.Close()
				err = f(c, i)
			}
			errs <- err
		}()
	}
	var first error
	for range clients {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	if first == nil {
		first = ctx.Err()
	}
	return first
}
