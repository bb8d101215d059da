package keeper

import (
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/coldjson"
)

// Stream is one client's connection to a container's streams.
type Stream struct {
	c  *conn
	at [2]int64 // bytes of each stream up to the next that Copy will write
}

func newStream(c *conn) *Stream { return &Stream{c: c} }

// At is how much of each stream there was before the next byte that Copy would write. It is
// safe to call when Copy has returned.
func (s *Stream) At() [2]int64 { return s.at }

// Stdin is the container's standard input. Closing it tells the container its end.
func (s *Stream) Stdin() io.WriteCloser { return streamInput{s.c} }

type streamInput struct{ c *conn }

func (i streamInput) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		k := min(len(b), chunkSize)
		if err := i.c.write(frameStdin, b[:k]); err != nil {
			return n, err
		}
		b, n = b[k:], n+k
	}
	return n, nil
}

func (i streamInput) Close() error { return i.c.write(frameEOF, nil) }

// Copy writes what the container says to stdout and stderr until its next exit. An
// error that is errdefs.ErrUnavailable means that the keeper is gone.
func (s *Stream) Copy(stdout, stderr io.Writer) (ExitStatus, error) {
	for {
		kind, payload, err := s.c.read()
		if err != nil {
			return ExitStatus{}, gone(err)
		}
		switch kind {
		case frameStdout:
			s.at[0] += int64(len(payload))
			_, err = stdout.Write(payload)
		case frameStderr:
			s.at[1] += int64(len(payload))
			_, err = stderr.Write(payload)
		case frameExit:
			var e ExitStatus
			return e, coldjson.Unmarshal(payload, &e)
		default:
			err = fmt.Errorf("frame %q among the output: %w", kind, errdefs.ErrInternal)
		}
		if err != nil {
			return ExitStatus{}, err
		}
	}
}

// Detach announces that the client goes on purpose, so that the container's standard
// input stays open for the next one.
func (s *Stream) Detach() error { return s.c.write(frameDetach, nil) }

// Done tells the keeper that the claimed finishing has been done.
func (s *Stream) Done() error { return s.c.write(frameDone, nil) }

// Close ends the connection, and with it Copy. The container goes on. It may be called several times at once: no
// files come by a stream that would have to be closed too.
func (s *Stream) Close() error { return s.c.c.Close() }
