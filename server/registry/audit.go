package registry

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// auditLog writes who changed what, and who was refused.
type auditLog struct {
	mu sync.Mutex
	w  io.Writer
}

// auditLine is one line. Fields are only added to.
type auditLine struct {
	Time   time.Time `json:"time"`
	User   string    `json:"user,omitempty"` // as it was given, if the status is 401
	Remote string    `json:"remote"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	Query  string    `json:"query,omitempty"`
	Status int       `json:"status"`
}

// request writes a line if r changed something or was refused. A log that cannot be written
// to does not stop the registry.
func (l *auditLog) request(r *http.Request, user string, status int, log *slog.Logger) {
	if status == 0 {
		status = http.StatusOK
	}
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	refused := status == http.StatusForbidden || status == http.StatusTooManyRequests ||
		status == http.StatusUnauthorized && r.Header.Get("Authorization") != ""
	if reads && !refused {
		return
	}
	line := auditLine{time.Now().UTC(), user, r.RemoteAddr, r.Method, r.URL.Path, r.URL.RawQuery, status}
	if status >= http.StatusBadRequest { // by anybody
		for _, s := range []*string{&line.User, &line.Method, &line.Path, &line.Query} {
			*s = short(*s)
		}
	}
	b, err := json.Marshal(line)
	if err != nil {
		return // strings and a number
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.w.Write(append(b, '\n')); err != nil {
		log.Error("writing audit log", "error", err)
	}
}

// maxAudited is how much is written of a text of who was refused, in bytes, so that nobody fills the disk that way.
const maxAudited = 1 << 10

func short(s string) string {
	if len(s) > maxAudited {
		return s[:maxAudited] + "..."
	}
	return s
}
