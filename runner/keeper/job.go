package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

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
	// Terminal says that the program makes a terminal, which Stdin and Stdout are then passed on to and from.
	Terminal bool
	// Begun is called when the program runs; it may be nil.
	Begun func(Begun)
	// UID and GID own the pipes, so that the program may open /dev/stdout again.
	UID, GID int
	// Files become its descriptors from 3 on, for the program to use before its execve.
	Files []*os.File
	// Cgroup lets OOM kills be reported, and what is left be killed; it may be empty.
	Cgroup Cgroup
}

// Begun is a job that runs. Its files stay open until Run returns.
type Begun struct {
	PID     int
	PIDFD   *os.File
	Console *os.File // the terminal's master; nil: there is none
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
	status, served, err = follow(ctx, c, func(b Begun) (err error) {
		if b.Console != nil {
			b.Console, err = pipes.pass(b.Console, &j)
		}
		if err == nil && j.Begun != nil {
			j.Begun(b)
		}
		return err
	})
	if errors.Is(err, errdefs.ErrUnavailable) {
		// Its keeper may have been killed before we knew the process.
		killAll(j.Cgroup)
		pipes.abandon()
	}
	return status, err
}

// follow waits for the end of a job. Closing our half of the connection makes its
// keeper kill it. served says that the keeper waits for another. The console becomes that of begun.
func follow(ctx context.Context, c *conn, begun func(Begun) error) (e ExitStatus, served bool, err error) {
	stop := context.AfterFunc(ctx, func() { c.c.CloseWrite() })
	defer stop()
	r, err := c.readReply()
	if err != nil {
		return ExitStatus{}, false, errOr(ctx.Err(), err)
	}
	n := 1
	if r.File {
		n = 2
	}
	files, err := c.takeFiles(n)
	if err != nil {
		return ExitStatus{}, false, err
	}
	pidfd := files[0]
	defer pidfd.Close()
	b := Begun{PID: r.PID, PIDFD: pidfd}
	if r.File {
		b.Console = files[1]
	}
	if err := begun(b); err != nil {
		return ExitStatus{}, false, err
	}
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

	console *console // nil: there is none
	mu      sync.Mutex
	errs    []error
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
		if !use || j.Terminal {
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
		p.copy(to, f)
		f.Close()
	})
}

// copy passes on output.
func (p *jobPipes) copy(to io.Writer, from io.Reader) {
	if _, err := io.Copy(to, from); err != nil && !errors.Is(err, os.ErrClosed) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.errs = append(p.errs, fmt.Errorf("passing on the output: %w", err))
	}
}

// pass copies to and from a terminal, whose output is over when nobody has it open any more, or the job has
// ended and left it to others. It takes master, and returns what is to be used in its place.
func (p *jobPipes) pass(master *os.File, j *Job) (*os.File, error) {
	defer master.Close()
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "console") // with the poller, being non-blocking
	if j.Stdin != nil {
		go io.Copy(f, j.Stdin) // not waited for: the reader may never return
	}
	to := j.Stdout
	if to == nil {
		to = io.Discard
	}
	p.console = &console{master: f}
	p.wg.Go(func() { p.copy(to, launch.ConsoleReader{Master: p.console}) })
	return f, nil
}

// consoleRest is how long the last that a job wrote may be on its way through its terminal.
const consoleRest = 100 * time.Millisecond

// A console is read until its job has ended, and then for what is there already.
type console struct {
	master *os.File
	over   atomic.Bool
}

func (c *console) Read(b []byte) (int, error) {
	if c.over.Load() {
		c.master.SetReadDeadline(time.Now().Add(consoleRest))
	}
	n, err := c.master.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

// end lets Read come to an end.
func (c *console) end() {
	c.over.Store(true)
	c.master.SetReadDeadline(time.Now().Add(consoleRest))
}

// abandon ends the copying although somebody may still have the other ends.
func (p *jobPipes) abandon() { closeAll(p.out) }

// finish waits for the end of the output.
func (p *jobPipes) finish() error {
	if p.stdin != nil {
		p.stdin.Close()
	}
	if p.console != nil {
		p.console.end()
		defer p.console.master.Close()
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
		files := []*os.File{p.pidfd}
		if p.child.Console != nil {
			files = append(files, p.child.Console)
		}
		if err := c.writeJSON(frameReply, reply{PID: p.id.PID, File: len(files) > 1}, files...); err != nil {
			p.signal(unix.SIGKILL)
		}
		closeAll(files[1:]) // the terminal's end is that of the caller's copy
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
