package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/coldjson"
	"github.com/teu-dev/teu/runner/launch"
)

// Job is a program run in the foreground: a RUN of a build. It leaves no state.
type Job struct {
	Program *launch.Program
	// Stdin is empty if nil.
	Stdin io.Reader
	// Stdout and Stderr receive its output through pipes; nil discards it.
	Stdout, Stderr io.Writer
	// UID and GID own the pipes, so that the program may open /dev/stdout again.
	UID, GID int
	// Files become its descriptors from 3 on, for the program to use before its execve.
	Files []*os.File
	// Cgroup lets OOM kills be reported, and what is left be killed; it may be empty.
	Cgroup Cgroup
}

// Run runs j in a keeper of its own, see [Jobs.Run].
func Run(ctx context.Context, b *Binary, j Job) (status ExitStatus, err error) {
	k := NewJobs(b)
	defer func() { err = errors.Join(err, k.Close()) }()
	return k.Run(ctx, j)
}

// Jobs are keepers that run jobs one after another, each one at a time: to start a keeper takes as
// long as to start a small job.
type Jobs struct {
	b *Binary

	mu     sync.Mutex
	idle   []*conn
	closed bool
}

// NewJobs returns Jobs without a keeper yet. b stays the caller's.
func NewJobs(b *Binary) *Jobs { return &Jobs{b: b} }

// Ready starts a keeper for the next job, unless one waits.
func (k *Jobs) Ready() error {
	c, err := k.take()
	if err == nil {
		k.keep(c)
	}
	return err
}

// Close ends the keepers. Those that have a job end with it.
func (k *Jobs) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, c := range k.idle {
		errs = append(errs, c.Close())
	}
	k.idle, k.closed = nil, true
	return errors.Join(errs...)
}

// take returns the connection to a keeper that waits for a job.
func (k *Jobs) take() (*conn, error) {
	for {
		k.mu.Lock()
		n := len(k.idle)
		if n == 0 {
			k.mu.Unlock()
			return k.b.spawn(os.Stderr, "job")
		}
		c := k.idle[n-1]
		k.idle = k.idle[:n-1]
		k.mu.Unlock()
		if !c.hungUp() {
			return c, nil
		}
		c.Close() // it was killed
	}
}

// keep makes a keeper wait for the next job.
func (k *Jobs) keep(c *conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		c.Close()
		return
	}
	k.idle = append(k.idle, c)
}

// Run runs j and returns how it ended. The program's own failure is no error; a step
// that failed before its execve is a [*LaunchError]. When ctx is cancelled, or the
// caller is killed, the program's pid 1 is killed and all of its PID namespace with it,
// and Run returns ctx's error after that.
func (k *Jobs) Run(ctx context.Context, j Job) (status ExitStatus, err error) {
	if err := ctx.Err(); err != nil {
		return ExitStatus{}, err
	}
	program, err := j.Program.MarshalBinary()
	if err != nil {
		return ExitStatus{}, err
	}
	pipes, err := j.pipes()
	if err != nil {
		return ExitStatus{}, err
	}
	defer func() { err = errors.Join(err, pipes.finish()) }()
	c, err := k.take()
	if err != nil {
		closeAll(pipes.theirs)
		return ExitStatus{}, err
	}
	served := false
	defer func() {
		if served {
			k.keep(c)
		} else {
			c.Close()
		}
	}()
	files := append(pipes.theirs[:len(pipes.theirs):len(pipes.theirs)], j.Files...)
	if len(files) > maxFiles {
		closeAll(pipes.theirs)
		return ExitStatus{}, fmt.Errorf("%d files for a job: %w", len(files), errdefs.ErrInvalidArgument)
	}
	err = c.writeJSON(frameRequest, request{Op: "job", Files: len(files), Cgroup: j.Cgroup}, files...)
	closeAll(pipes.theirs)
	if err == nil {
		err = c.write(frameProgram, program)
	}
	if err != nil {
		return ExitStatus{}, gone(err)
	}
	status, served, err = follow(ctx, c)
	if errors.Is(err, errdefs.ErrUnavailable) {
		// Its keeper may have been killed before we knew the process.
		killAll(j.Cgroup)
		pipes.abandon()
	}
	return status, err
}

// follow waits for the end of a job. Closing our half of the connection makes its
// keeper kill it. served says that the keeper waits for another.
func follow(ctx context.Context, c *conn) (e ExitStatus, served bool, err error) {
	stop := context.AfterFunc(ctx, func() { c.c.CloseWrite() })
	defer stop()
	if _, err := c.readReply(); err != nil {
		return ExitStatus{}, false, errOr(ctx.Err(), err)
	}
	files, err := c.takeFiles(1)
	if err != nil {
		return ExitStatus{}, false, err
	}
	pidfd := files[0]
	defer pidfd.Close()
	kind, payload, err := c.read()
	if err != nil || kind != frameExit {
		// The keeper was killed. Nobody else knows of its job.
		unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0)
		pollExit(int(pidfd.Fd()))
		return ExitStatus{}, false, errOr(ctx.Err(), gone(errOr(err, io.ErrUnexpectedEOF)))
	}
	if err := coldjson.Unmarshal(payload, &e); err != nil {
		return ExitStatus{}, false, err
	}
	return e, stop(), ctx.Err()
}

// jobPipes are the standard streams of a job.
type jobPipes struct {
	theirs []*os.File
	stdin  *os.File
	out    []*os.File
	wg     sync.WaitGroup
	mu     sync.Mutex
	errs   []error
}

func (j *Job) pipes() (p *jobPipes, err error) {
	p = &jobPipes{}
	defer func() {
		if err != nil {
			closeAll(p.theirs)
			p.finish()
		}
	}()
	for i, use := range []bool{j.Stdin != nil, j.Stdout != nil, j.Stderr != nil} {
		if !use {
			null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
			if err != nil {
				return p, err
			}
			p.theirs = append(p.theirs, null)
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return p, err
		}
		if err := os.Chown(fmt.Sprintf("/proc/self/fd/%d", descriptor(r)), j.UID, j.GID); err != nil {
			r.Close()
			w.Close()
			return p, err
		}
		ours, theirs := r, w
		if i == 0 {
			ours, theirs = w, r
		}
		unix.SetNonblock(descriptor(theirs), false)
		p.theirs = append(p.theirs, theirs)
		p.begin(i, ours, j)
	}
	return p, nil
}

// begin copies one stream. Input ends with the job, whether it was read or not.
func (p *jobPipes) begin(i int, f *os.File, j *Job) {
	if i == 0 {
		p.stdin = f
		go func() { // not waited for: the reader may never return
			io.Copy(f, j.Stdin)
			f.Close()
		}()
		return
	}
	to := []io.Writer{nil, j.Stdout, j.Stderr}[i]
	p.out = append(p.out, f)
	p.wg.Go(func() {
		_, err := io.Copy(to, f)
		f.Close()
		if err != nil && !errors.Is(err, os.ErrClosed) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.errs = append(p.errs, fmt.Errorf("passing on the output: %w", err))
		}
	})
}

// abandon ends the copying although somebody may still have the other ends.
func (p *jobPipes) abandon() { closeAll(p.out) }

// finish waits for the end of the output.
func (p *jobPipes) finish() error {
	if p.stdin != nil {
		p.stdin.Close()
	}
	p.wg.Wait()
	return errors.Join(p.errs...)
}

// collectEvery is the number of jobs after which a keeper collects what their programs have left, as it does
// not on its own, see environment.
const collectEvery = 8

// jobs is the process of a keeper of jobs. It ends with the connection, and so does the job that
// it has then.
func jobs(c *conn) int {
	next := c.readFrame()
	for n := 1; next.err == nil; n++ {
		q, p, err := startJob(c, next)
		if err != nil {
			c.writeJSON(frameReply, failure(err))
			return 1
		}
		base := oomKills(q.Cgroup)
		if err := c.writeJSON(frameReply, reply{PID: p.id.PID}, p.pidfd); err != nil {
			p.signal(unix.SIGKILL)
		}
		said := make(chan frame)
		go func() {
			f := c.readFrame() // the caller says nothing before the end: it is gone, or wants the end
			p.signal(unix.SIGKILL)
			said <- f
		}()
		status := p.wait()
		killAll(q.Cgroup)
		status.Final, status.OOMKilled = true, oomKills(q.Cgroup) > base
		c.write(frameExit, encode(status))
		if n%collectEvery == 0 {
			runtime.GC() // nobody waits for us
		}
		next = <-said
		p.close()
	}
	return 0
}

func startJob(c *conn, first frame) (q request, p *process, err error) {
	q, child, err := startChild(c, first)
	if err != nil {
		return q, nil, err
	}
	p, err = childProcess(child)
	if err != nil {
		child.Signal(unix.SIGKILL)
	}
	return q, p, err
}

// startChild takes a request, reads its program and starts it.
func startChild(c *conn, first frame) (q request, child *launch.Child, err error) {
	err = first.err
	if err == nil && first.kind == frameRequest {
		err = coldjson.Unmarshal(first.payload, &q)
	}
	if err != nil {
		return q, nil, err
	}
	program, files, err := readProgram(c, q.Files)
	defer closeAll(files)
	if err != nil {
		return q, nil, err
	}
	child, err = launch.Start(program, files)
	return q, child, err
}
