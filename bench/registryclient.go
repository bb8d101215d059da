package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// httpConn is a client of HTTP/1.1 that costs little: it shares two cores with the server it
// measures, and a slow client makes all servers look alike.
type httpConn struct {
	net.Conn
	r       *bufio.Reader
	address string
	buf     []byte
}

// answer is what a measurement looks at of a response.
type answer struct {
	status   int
	length   int64
	location string
}

func dialHTTP(address string) (*httpConn, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &httpConn{Conn: c, r: bufio.NewReaderSize(c, 64<<10), address: address, buf: make([]byte, 256<<10)}, nil
}

// do sends a request whose body is the parts, and reads the answer to its end.
func (c *httpConn) do(method, path, headers string, parts ...[]byte) (a answer, err error) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if method != "GET" {
		headers += fmt.Sprintf("Content-Length: %d\r\n", size)
	}
	request := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", method, path, c.address, headers)
	if size < 64<<10 { // one packet, as other clients do it
		for _, p := range parts {
			request = append(request, p...)
		}
		parts = nil
	}
	if _, err := c.Write(request); err != nil {
		return a, err
	}
	for _, p := range parts {
		if _, err := c.Write(p); err != nil {
			return a, err
		}
	}
	if a, err = c.answer(); err != nil {
		return a, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if a.status/100 != 2 {
		return a, fmt.Errorf("%s %s: status %d", method, path, a.status)
	}
	return a, nil
}

func (c *httpConn) answer() (a answer, err error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	if len(line) < 12 {
		return a, fmt.Errorf("answer %q", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, err
	}
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return a, err
		}
		name, value, _ := strings.Cut(string(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case len(line) <= 2:
			return a, c.skip(a.length)
		case strings.EqualFold(name, "Content-Length"):
			if a.length, err = strconv.ParseInt(value, 10, 64); err != nil {
				return a, err
			}
		case strings.EqualFold(name, "Location"):
			a.location = value
		case strings.EqualFold(name, "Transfer-Encoding"):
			return a, errors.New("an answer without a length")
		}
	}
}

// skip reads a body. What is not in the buffer yet does not go through it.
func (c *httpConn) skip(n int64) error {
	for n > 0 {
		var got int
		var err error
		if buffered := c.r.Buffered(); buffered > 0 {
			got, err = c.r.Discard(int(min(n, int64(buffered))))
		} else {
			got, err = c.Read(c.buf[:min(n, int64(len(c.buf)))])
		}
		if n -= int64(got); err != nil && n > 0 {
			return err
		}
	}
	return nil
}

// path returns the path of a location, ready for parameters to be added.
func (a answer) path() string {
	path := a.location
	if i := strings.Index(path, "://"); i >= 0 {
		path = path[i+3:]
		path = path[strings.IndexByte(path, '/'):]
	}
	if strings.Contains(path, "?") {
		return path + "&"
	}
	return path + "?"
}

// pushBlob uploads the parts of a blob in one piece.
func (c *httpConn) pushBlob(repo string, d digest.Digest, parts ...[]byte) error {
	a, err := c.do("POST", "/v2/"+repo+"/blobs/uploads/", "")
	if err != nil {
		return err
	}
	_, err = c.do("PUT", a.path()+"digest="+d.String(), "Content-Type: application/octet-stream\r\n", parts...)
	return err
}

// pushChunks uploads a blob in chunks.
func (c *httpConn) pushChunks(repo string, d digest.Digest, chunk int, blob []byte) error {
	a, err := c.do("POST", "/v2/"+repo+"/blobs/uploads/", "")
	if err != nil {
		return err
	}
	for at := 0; at < len(blob); at += chunk {
		end := min(at+chunk, len(blob))
		h := fmt.Sprintf("Content-Type: application/octet-stream\r\nContent-Range: %d-%d\r\n", at, end-1)
		if a, err = c.do("PATCH", strings.TrimRight(a.path(), "?&"), h, blob[at:end]); err != nil {
			return err
		}
	}
	_, err = c.do("PUT", a.path()+"digest="+d.String(), "")
	return err
}

// smallImage is an image of one layer.
type smallImage struct {
	blobs    map[digest.Digest][]byte // the layer and the config
	manifest []byte
}

func newSmallImage(layer []byte) smallImage {
	diff := digest.FromBytes(layer)
	config, _ := json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff}}})
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: diff, Size: int64(len(layer))}}}
	manifest, _ := json.Marshal(m)
	return smallImage{map[digest.Digest][]byte{diff: layer, m.Config.Digest: config}, manifest}
}

// pushImage pushes an image as a client does: the blobs, then the manifest.
func (c *httpConn) pushImage(repo, tag string, image smallImage) error {
	for d, blob := range image.blobs {
		if err := c.pushBlob(repo, d, blob); err != nil {
			return err
		}
	}
	return c.putManifest(repo, tag, image.manifest)
}

func (c *httpConn) putManifest(repo, reference string, manifest []byte) error {
	_, err := c.do("PUT", "/v2/"+repo+"/manifests/"+reference, "Content-Type: "+ocispec.MediaTypeImageManifest+"\r\n", manifest)
	return err
}

// load runs f from so many clients for a while, each with a connection to one of the addresses.
// It returns the sum of what f returned, per second, and how long each call took.
func load(ctx context.Context, clients int, how time.Duration, addresses []string, f func(c *httpConn, client, i int) (float64, error)) (float64, []time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, how)
	defer cancel()
	var mu sync.Mutex
	var sum float64
	var took []time.Duration
	var failure error
	var wg sync.WaitGroup
	start := time.Now()
	for client := range clients {
		c, err := dialHTTP(addresses[client%len(addresses)])
		if err != nil {
			return 0, nil, err
		}
		wg.Go(func() {
			defer c.Close()
			var own float64
			var times []time.Duration
			var err error
			for i := 0; ctx.Err() == nil && err == nil; i++ {
				var n float64
				begin := time.Now()
				n, err = f(c, client, i)
				times = append(times, time.Since(begin))
				own += n
			}
			mu.Lock()
			defer mu.Unlock()
			sum += own
			took = append(took, times...)
			if err != nil {
				failure = err
			}
		})
	}
	wg.Wait()
	return sum / time.Since(start).Seconds(), took, failure
}
