package registry

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sync/singleflight"
)

// door decides who may come in: who has an account if the registry has accounts, else who
// has a password in the htpasswd file or a certificate if those are asked for, else whoever
// comes over a loopback address, or everybody.
type door struct {
	file      string
	accounts  *documentCache[*Accounts] // nil without
	certs     bool                      // clients have shown a certificate
	external  string                    // scheme and host by which clients come, "" to take it from requests
	anonymous bool
	log       *slog.Logger
	limit     *rateLimit // of logins, nil for none

	// bcrypt is slow on purpose, so its answers are remembered, under a key that only
	// this process can make. A changed hash makes another key.
	secret  []byte
	compare singleflight.Group
	slots   chan struct{} // bounds how much of the machine guessing passwords can take

	mu    sync.Mutex
	stamp fileStamp
	users map[string][]byte // user -> bcrypt hash
	other []byte            // one of the hashes
	good  map[answerKey]bool
	bad   map[answerKey]bool
}

type answerKey [sha256.Size]byte

// fileStamp tells whether a file is the one read before.
type fileStamp struct {
	mtime time.Time
	size  int64
}

// maxAnswers bounds each of the two memories of passwords.
const maxAnswers = 4096

// maxHtpasswd is the largest htpasswd file, in bytes.
const maxHtpasswd = 8 << 20

func newDoor(o Options, s documents, log *slog.Logger) (*door, error) {
	d := &door{
		file: o.Htpasswd, anonymous: o.Anonymous, log: log, certs: o.ClientCerts, external: strings.TrimSuffix(o.URL, "/"),
		secret: make([]byte, 32),
		slots:  make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		good:   map[answerKey]bool{}, bad: map[answerKey]bool{},
	}
	rand.Read(d.secret)
	if o.Accounts {
		d.accounts = &documentCache[*Accounts]{store: s, name: accountsDocument, decode: decodeAccounts}
	}
	if d.file == "" {
		return d, nil
	}
	users, bad, err := readHtpasswd(d.file)
	if err == nil && len(bad) > 0 {
		err = fmt.Errorf("%s:%d: not \"user:hash\" with a bcrypt hash ($2y$...); make it with htpasswd -B", d.file, bad[0])
	}
	if err != nil {
		return nil, fmt.Errorf("reading users: %w", err)
	}
	d.setUsers(users)
	if fi, err := os.Stat(d.file); err == nil {
		d.stamp = fileStamp{fi.ModTime(), fi.Size()}
	}
	return d, nil
}

// visitor is who makes a request.
type visitor struct {
	name   string
	all    bool      // may do everything
	token  *claims   // what it came with, if with a token
	rules  *Accounts // nil if all
	bearer bool      // a token with more access may help
}

// may reports whether the visitor may do a in repo.
func (v visitor) may(a Action, repo string) bool {
	return v.all || v.rules.allows(v.name, a, repo) && (v.token == nil || v.token.allows(a, repo))
}

// mayEverywhere reports whether the visitor may do a in all repositories, which no token says.
func (v visitor) mayEverywhere(a Action) bool {
	return v.all || v.rules.allowsEverywhere(v.name, a) && v.token == nil
}

// mayWithToken reports whether the visitor may not do a in repo, but would with a token for it.
func (v visitor) mayWithToken(a Action, repo string) bool {
	return !v.all && v.token != nil && !v.token.allows(a, repo) && v.rules.allows(v.name, a, repo)
}

// sees reports whether a repository is in the visitor's catalog.
func (v visitor) sees(repo string) bool { return v.all || v.rules.allows(v.name, actionPull, repo) }

// admit returns who makes the request, or the error to answer with.
func (d *door) admit(w http.ResponseWriter, r *http.Request, rt route) (visitor, error) {
	if d.accounts != nil {
		return d.admitAccount(w, r, rt)
	}
	if d.file == "" {
		if name := clientName(r); d.certs && name != "" {
			return visitor{name: name, all: true}, nil
		}
		return visitor{all: true}, d.admitAnonymous(r)
	}
	user, password, ok := r.BasicAuth()
	if ok {
		var err error
		if ok, err = d.check(w, r, user, password); err != nil {
			return visitor{name: user}, err
		}
	}
	if ok {
		return visitor{name: user, all: true}, nil
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="teu registry"`)
	return visitor{name: user}, &apiError{http.StatusUnauthorized, codeUnauthorized, "authentication required", askedFor(r, rt)}
}

// clientName is the name in a client's certificate, which TLS has verified.
func clientName(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return ""
	}
	return r.TLS.VerifiedChains[0][0].Subject.CommonName
}

func (d *door) admitAnonymous(r *http.Request) error {
	if d.anonymous {
		return nil
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !isLoopback(local) {
		return &apiError{http.StatusForbidden, codeDenied, "anonymous access is for loopback addresses only", nil}
	}
	if fromBrowser(r) {
		return &apiError{http.StatusForbidden, codeDenied, "anonymous access is not for browsers", nil}
	}
	return nil
}

// fromBrowser says whether a page in a browser on this machine, which can reach loopback addresses, makes the request.
//
// Of one to another origin browsers say so. A page whose own name was made to lead here (DNS rebinding) asks its own
// origin: of a GET nothing tells then, over plain HTTP, but the name, and the languages that all browsers send,
// which a script can change and not take away (Fetch standard, "HTTP-network-or-cache fetch").
func fromBrowser(r *http.Request) bool {
	if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
		return true
	}
	_, languages := r.Header["Accept-Language"]
	return languages && !namesLocal(r.Host)
}

// namesLocal says whether the host of a request can be nobody's domain: an address, a name without a dot, or one of
// those that only lead to this machine (RFC 6761, section 6.3).
func namesLocal(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	return net.ParseIP(name) != nil || !strings.Contains(name, ".") || strings.HasSuffix(name, ".localhost")
}

func isLoopback(a net.Addr) bool {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}

// check tells whether the password is the user's. It is an error to ask too often.
func (d *door) check(w http.ResponseWriter, r *http.Request, user, password string) (bool, error) {
	d.mu.Lock()
	d.reload()
	hash, known := d.users[user]
	if !known {
		hash = d.other // takes as long, so that answers do not tell who exists
	}
	d.mu.Unlock()
	return d.compareHash(w, r, user, password, hash, known)
}

func (d *door) answerKey(user, password string, hash []byte) (k answerKey) {
	m := hmac.New(sha256.New, d.secret)
	fmt.Fprintf(m, "%d:%s%d:%s%s", len(user), user, len(password), password, hash)
	m.Sum(k[:0])
	return k
}

func (d *door) remember(key answerKey, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	memory := d.bad
	if ok {
		memory = d.good
	}
	if len(memory) >= maxAnswers {
		clear(memory)
	}
	memory[key] = true
}

// reload reads the file if it changed. A file that cannot be read lets nobody in.
// The caller holds d.mu.
func (d *door) reload() {
	var now fileStamp
	if fi, err := os.Stat(d.file); err == nil {
		now = fileStamp{fi.ModTime(), fi.Size()}
	}
	if now == d.stamp {
		return
	}
	d.stamp = now
	users, bad, err := readHtpasswd(d.file)
	if err != nil {
		d.log.Error("reading users: nobody can log in", "error", err)
	}
	for _, line := range bad {
		d.log.Warn("ignoring a user without a bcrypt hash", "file", d.file, "line", line)
	}
	d.setUsers(users)
}

func (d *door) setUsers(users map[string][]byte) {
	d.users, d.other = users, nil
	for _, hash := range users {
		d.other = hash
		break
	}
}

// readHtpasswd returns the users of a file, and the numbers of the lines it cannot use.
func readHtpasswd(path string) (users map[string][]byte, bad []int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxHtpasswd {
		return nil, nil, fmt.Errorf("%s is not a regular file of at most 8 MiB", path)
	}
	users = map[string][]byte{}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		user, hash, _ := strings.Cut(string(line), ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || user == "" {
			bad = append(bad, n)
			continue
		}
		users[user] = []byte(hash)
	}
	return users, bad, lines.Err()
}
