//go:build !front && !porter

package main

import (
	"log/slog"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// A logFile is appended to, and opened again when it was moved out of the way.
type logFile struct {
	path string

	mu sync.Mutex
	f  *os.File
}

func openLogFile(path string) (*logFile, error) {
	l := &logFile{path: path}
	return l, l.reopen()
}

// reopen goes on in the file that has the name now. If there can be none, it goes on in the old one.
func (l *logFile) reopen() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close() // every line was written as a whole
	}
	l.f = f
	return nil
}

// Write implements io.Writer.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

// onReload calls reload for every SIGHUP until stop is called, which otherwise would end the server: all
// that it reads from files it reads again by itself when they change. A server in a terminal ends with that.
func onReload(inTerminal bool, reload func() error) (stop func()) {
	if inTerminal {
		return func() {}
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	var done sync.WaitGroup
	done.Go(func() {
		for range hup {
			if err := reload(); err != nil {
				slog.Error("reloading", "error", err)
			}
		}
	})
	return func() {
		signal.Stop(hup)
		close(hup)
		done.Wait()
	}
}
