package registry

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
)

// fileWriter is a ResponseWriter that sees whether it is given a file, as that of net/http
// needs it for sendfile(2).
type fileWriter struct {
	*httptest.ResponseRecorder
	files int
}

func (w *fileWriter) ReadFrom(r io.Reader) (int64, error) {
	source := r
	if l, ok := r.(*io.LimitedReader); ok {
		source = l.R
	}
	if _, ok := source.(*os.File); ok {
		w.files++
	}
	return io.Copy(w.ResponseRecorder, r)
}

// TestSendfile: nothing on the way hides the file of a blob from net/http, nor net/http from
// the file, whether requests are logged or not.
func TestSendfile(t *testing.T) {
	root := t.TempDir()
	d := serveOptions(t, Options{Root: root}).blob("a", []byte("0123456789"))
	for name, log := range map[string]*slog.Logger{
		"quiet":  nil,
		"logged": slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})),
	} {
		g, err := New(Options{Root: root, Anonymous: true, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		for contentRange, want := range map[string]string{"": "0123456789", "bytes=2-4": "234"} {
			r := httptest.NewRequest(http.MethodGet, "/v2/a/blobs/"+d.Digest.String(), nil)
			if contentRange != "" {
				r.Header.Set("Range", contentRange)
			}
			w := &fileWriter{ResponseRecorder: httptest.NewRecorder()}
			g.ServeHTTP(w, r)
			if got := w.Body.String(); got != want || w.files != 1 {
				t.Errorf("%s, range %q: got %q, and a file %d times; want %q once", name, contentRange, got, w.files, want)
			}
		}
	}
}
