package engine

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// version is the minor number of a version of the API; the major one is 1.
type version int

const (
	oldestVersion version = 24
	newestVersion version = 56
)

func (v version) String() string { return "1." + strconv.Itoa(int(v)) }

// route is one operation of the API.
type route struct {
	method string
	// pattern is a path whose one variable part is {name}, a segment, or {name...}, at
	// least one segment: names of images have slashes.
	pattern string
	since   version // 0: always
	handle  handler
}

func (t route) String() string { return t.method + " " + t.pattern }

// match returns the variable part of a path.
func (t route) match(path string) (name string, ok bool) {
	before, rest, variable := strings.Cut(t.pattern, "{name")
	if !variable {
		return "", path == t.pattern
	}
	greedy, after := false, ""
	if greedy = strings.HasPrefix(rest, "...}"); greedy {
		after = rest[4:]
	} else {
		after = rest[1:]
	}
	if len(path) <= len(before)+len(after) || !strings.HasPrefix(path, before) || !strings.HasSuffix(path, after) {
		return "", false
	}
	name = path[len(before) : len(path)-len(after)]
	return name, greedy || !strings.Contains(name, "/")
}

// route finds the handler of a request and its version. Unknown paths and methods are the
// same to dockerd: "page not found".
func (s *Server) route(r *request) (handler, error) {
	if isCall(r.Request) {
		return s.call, nil
	}
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/v"); ok {
		if text, tail, ok := strings.Cut(rest, "/"); ok && text != "" && strings.Trim(text, "0123456789.") == "" {
			path = "/" + tail
			if err := r.negotiate(text, path); err != nil {
				return nil, err
			}
		}
	}
	var err error
	if r.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, invalid("invalid query: %s", err)
	}
	for _, t := range s.routes {
		if t.method != r.Method {
			continue
		}
		name, ok := t.match(path)
		switch {
		case !ok:
		case r.version < t.since: // not 404, by which clients of some operations know that a thing is missing
			return nil, invalid("%s requires minimum API version %s", strings.Replace(t.String(), "{name...}", "{name:.*}", 1), t.since)
		default:
			r.name = name
			return t.handle, nil
		}
	}
	return nil, &statusError{http.StatusNotFound, "page not found"}
}

// negotiate takes the version a client asks for, as dockerd's version middleware does. The transport docker-daemon: of
// skopeo, buildah and podman before containers/image 5.30, which is Debian 12's and Ubuntu 24.04's, asks for 1.22, saves
// and loads images, and cannot be told to ask for another one; of images 1.22 said what 1.24 does.
func (r *request) negotiate(text, path string) error {
	major, minor, _ := strings.Cut(text, ".")
	m, err := strconv.Atoi(major)
	n, err2 := strconv.Atoi(minor)
	if err != nil || err2 != nil {
		return invalid("invalid API version %q", text)
	}
	switch {
	case m > 1 || m == 1 && version(n) > newestVersion:
		return invalid("client version %s is too new. Maximum supported API version is %s", text, newestVersion)
	case m == 1 && n >= 22 && version(n) < oldestVersion && strings.HasPrefix(path, "/images/"):
		n = int(oldestVersion)
	case m < 1 || version(n) < oldestVersion:
		return invalid("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", text, oldestVersion)
	}
	r.version = version(n)
	return nil
}

// Operations lists what is served as "METHOD PATTERN", in the order of the table.
func (s *Server) Operations() []string {
	var all []string
	for _, t := range s.routes {
		all = append(all, t.String())
	}
	return all
}
