package registry

import (
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
)

// routeKind is one shape of path.
type routeKind int

const (
	routeBase      routeKind = iota // /v2/
	routeCatalog                    // /v2/_catalog
	routeTags                       // /v2/NAME/tags/list
	routeReferrers                  // /v2/NAME/referrers/DIGEST
	routeManifest                   // /v2/NAME/manifests/TAG-OR-DIGEST
	routeBlob                       // /v2/NAME/blobs/DIGEST
	routeUploads                    // /v2/NAME/blobs/uploads/
	routeUpload                     // /v2/NAME/blobs/uploads/ID
)

func (k routeKind) String() string {
	return [...]string{"base", "catalog", "tags", "referrers", "manifest", "blob", "uploads", "upload"}[k]
}

// route is a path taken apart. repo is a valid name, the rest is not checked yet.
type route struct {
	kind    routeKind
	repo    string
	ref     string  // tag, digest or upload ID
	visitor visitor // who asks
}

// parseRoute takes a path apart from its end, since a repository may be called
// "a/manifests/b" or "blobs/uploads".
func parseRoute(path string) (route, error) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	switch {
	case path == "/v2" || path == "/v2/":
		return route{kind: routeBase}, nil
	case rest == "_catalog":
		return route{kind: routeCatalog}, nil
	case !ok:
		return route{}, &apiError{http.StatusNotFound, codeUnsupported, "no such endpoint", nil}
	}
	rt, ok := splitRoute(rest)
	if !ok {
		return route{}, &apiError{http.StatusNotFound, codeUnsupported, "no such endpoint", nil}
	}
	if !validName(rt.repo) {
		return route{}, &apiError{http.StatusBadRequest, codeNameInvalid, "invalid repository name", map[string]string{"name": rt.repo}}
	}
	return rt, nil
}

func splitRoute(rest string) (route, bool) {
	head, last, ok := cutLast(rest)
	if !ok {
		return route{}, false
	}
	name, noun, ok := cutLast(head)
	if !ok {
		return route{}, false
	}
	switch noun {
	case "manifests":
		return route{kind: routeManifest, repo: name, ref: last}, last != ""
	case "referrers":
		return route{kind: routeReferrers, repo: name, ref: last}, last != ""
	case "tags":
		return route{kind: routeTags, repo: name}, last == "list"
	case "blobs":
		if last == "uploads" { // without the slash at the end, as some clients write it
			return route{kind: routeUploads, repo: name}, true
		}
		return route{kind: routeBlob, repo: name, ref: last}, last != ""
	case "uploads":
		repo, ok := strings.CutSuffix(name, "/blobs")
		if last == "" {
			return route{kind: routeUploads, repo: repo}, ok
		}
		return route{kind: routeUpload, repo: repo, ref: last}, ok
	}
	return route{}, false
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// maxName is the longest repository name, in bytes: the name with a host in front has to
// fit into the 255 that clients allow.
const maxName = 255

// validName reports whether s is a repository name. distribution-spec 1.1, "Pulling
// manifests": [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
func validName(s string) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if !validComponent(part) {
			return false
		}
	}
	return true
}

func validComponent(s string) bool {
	for i := 0; ; {
		start := i
		for i < len(s) && isLowerAlnum(s[i]) {
			i++
		}
		if i == start {
			return false // starts or ends with a separator, or is empty
		}
		if i == len(s) {
			return true
		}
		start = i
		for i < len(s) && !isLowerAlnum(s[i]) {
			i++
		}
		if !validSeparator(s[start:i]) {
			return false
		}
	}
}

func validSeparator(s string) bool {
	return s == "." || s == "_" || s == "__" || strings.Trim(s, "-") == ""
}

func isLowerAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// validTag reports whether s is a tag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
func validTag(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case isLowerAlnum(c), 'A' <= c && c <= 'Z', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// parseDigest accepts the digests the registry can verify: sha256 and sha512.
func parseDigest(s string) (digest.Digest, error) {
	algorithm, hex, _ := strings.Cut(s, ":")
	ok := algorithm == "sha256" && len(hex) == 64 || algorithm == "sha512" && len(hex) == 128
	for i := 0; ok && i < len(hex); i++ {
		ok = '0' <= hex[i] && hex[i] <= '9' || 'a' <= hex[i] && hex[i] <= 'f'
	}
	if !ok {
		return "", &apiError{http.StatusBadRequest, codeDigestInvalid, "not a sha256 or sha512 digest", map[string]string{"digest": s}}
	}
	return digest.Digest(s), nil
}
