package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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

// Run runs j and returns how it ended. The program's own failure is no error; a step
// that failed before its execve is a [*LaunchError]. When ctx is cancelled, or the
// caller is killed, the program's pid 1 is killed and all of its PID namespace with it,
// and Run returns ctx's error after that.
func Run(ctx context.Context, b *Binary, j Job) (status ExitStatus, err error) {
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
	c, err := b.spawn(os.Stderr, "job")
	if err != nil {
		closeAll(pipes.theirs)
		return ExitStatus{}, err
	}
	defer c.Close()
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
	status, err = follow(ctx, c)
	if errors.Is(err, errdefs.ErrUnavailable) {
		// Its keeper may have been killed before we knew the process.
		killAll(j.Cgroup)
		pipes.abandon()
	}
	return status, err
}

// follow waits for the end of a job. Closing our half of the connection makes its
// keeper kill it.
func follow(ctx context.Context, c *conn) (ExitStatus, error) {
	defer context.AfterFunc(ctx, func() { c.c.CloseWrite() })()
	if _, err := c.readReply(); err != nil {
		return ExitStatus{}, errOr(ctx.Err(), err)
	}
	files, err := c.takeFiles(1)
	if err != nil {
		return ExitStatus{}, err
	}
	pidfd := files[0]
	defer pidfd.Close()
	kind, payload, err := c.read()
	if err != nil || kind != frameExit {
		// The keeper was killed. Nobody else knows of its job.
		unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGKILL, nil, 0)
		pollExit(int(pidfd.Fd()))
		return ExitStatus{}, errOr(ctx.Err(), gone(errOr(err, io.ErrUnexpectedEOF)))
	}
	var e ExitStatus
	if err := coldjson.Unmarshal(payload, &e); err != nil {
		return ExitStatus{}, err
	}
	return e, ctx.Err()
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

// job is the process of a job's keeper. It ends with its job, and its job with the
// connection.
func job(c *conn) int {
	q, p, err := startJob(c)
	if err != nil {
		c.writeJSON(frameReply, failure(err))
		return 1
	}
	base := oomKills(q.Cgroup)
	if err := c.writeJSON(frameReply, reply{PID: p.id.PID}, p.pidfd); err != nil {
		p.signal(unix.SIGKILL)
	}
	go func() {
		c.read() // the caller says nothing more: it is gone, or wants the end
		p.signal(unix.SIGKILL)
	}()
	status := p.wait()
	killAll(q.Cgroup)
	status.Final, status.OOMKilled = true, oomKills(q.Cgroup) > base
	c.write(frameExit, encode(status))
	return 0
}

func startJob(c *conn) (q request, p *process, err error) {
	q, child, err := startChild(c)
	if err != nil {
		return q, nil, err
	}
	p, err = childProcess(child)
	if err != nil {
		child.Signal(unix.SIGKILL)
	}
	return q, p, err
}

// startChild reads a request with its program and starts it.
func startChild(c *conn) (q request, child *launch.Child, err error) {
	kind, payload, err := c.read()
	if err == nil && kind == frameRequest {
		err = coldjson.Unmarshal(payload, &q)
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
