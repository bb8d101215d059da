package cache

import "io"

const (
	aheadBuffers = 4
	aheadSize    = 256 << 10 // bytes each
)

// A readAhead reads from another reader in a goroutine, up to a few buffers further than its own
// reader is, so that both have something to do.
type readAhead struct {
	full  chan chunk  // in order; closed after the chunk with an error
	empty chan []byte // to be filled
	stop  chan struct{}
	done  chan struct{}

	buf []byte // the buffer being read
	cur []byte // what is left of it
	err error
}

type chunk struct {
	buf []byte
	n   int
	err error
}

func newReadAhead(r io.Reader) *readAhead {
	a := &readAhead{
		full: make(chan chunk, aheadBuffers), empty: make(chan []byte, aheadBuffers),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	for range aheadBuffers {
		a.empty <- make([]byte, aheadSize)
	}
	go a.fill(r)
	return a
}

// fill reads r to its end or first error, or until Close.
func (a *readAhead) fill(r io.Reader) {
	defer close(a.done)
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.empty:
		case <-a.stop:
			return
		}
		n, err := readFull(r, buf)
		a.full <- chunk{buf, n, err} // there is room: there are no more chunks than buffers
		if err != nil {
			return
		}
	}
}

// readFull fills buf, or returns r's own error with what came before it.
func readFull(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// Read implements io.Reader, for one goroutine.
func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.cur) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		if a.buf != nil {
			a.empty <- a.buf
		}
		c, ok := <-a.full
		if !ok {
			a.err = io.ErrClosedPipe
			return 0, a.err
		}
		a.buf, a.cur, a.err = c.buf, c.buf[:c.n], c.err
	}
	n := copy(p, a.cur)
	a.cur = a.cur[n:]
	return n, nil
}

// Close ends the goroutine and waits for it, so for a Read of the source that is going on. Nothing
// may be read afterwards.
func (a *readAhead) Close() error {
	close(a.stop)
	<-a.done
	return nil
}
