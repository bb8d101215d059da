package cache

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// imageName is what a user wrote of an image, with docker's defaults filled in. It is what
// github.com/distribution/reference makes of it, a fuzz test says; that package compiles its
// regular expressions in every process that links it, for half a millisecond.
type imageName struct {
	repository string        // with the registry's host: docker.io/library/alpine
	tag        string        // "" if there is a digest only
	digest     digest.Digest // or ""
}

// String is the name under which an image is kept.
func (n imageName) String() string {
	s := n.repository
	if n.tag != "" {
		s += ":" + n.tag
	}
	if n.digest != "" {
		s += "@" + n.digest.String()
	}
	return s
}

// Limits of the parts of a name; distribution-spec 1.1, "Pulling manifests", and docker's grammar.
const (
	maxPath = 255
	maxTag  = 128
)

var errNameFormat = errors.New("invalid reference format")

// parseName reads a name as docker does. One without tag and digest gets the tag latest.
func parseName(s string) (imageName, error) {
	if isHex(s) && len(s) == 64 {
		return imageName{}, fmt.Errorf("invalid repository name (%s), cannot specify 64-byte hexadecimal strings", s)
	}
	host, rest := splitHost(s)
	if path, _, _ := strings.Cut(rest, ":"); strings.ToLower(path) != path {
		return imageName{}, fmt.Errorf("%w: repository name (%s) must be lowercase", errNameFormat, path)
	}
	return parseWhole(host + "/" + rest)
}

// splitHost splits off the registry, with docker's defaults and its old name for Docker Hub.
func splitHost(s string) (host, rest string) {
	host, rest, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		return "docker.io", "library/" + s
	case host == "index.docker.io":
		host = "docker.io"
	case host != "localhost" && !strings.ContainsAny(host, ".:") && strings.ToLower(host) == host:
		host, rest = "docker.io", s
	}
	if host == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	return host, rest
}

// parseWhole parses HOST/PATH[:TAG][@DIGEST].
func parseWhole(s string) (n imageName, err error) {
	s, dgst, digested := strings.Cut(s, "@")
	n.repository = s
	tagged := false
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') {
		n.repository, n.tag, tagged = s[:i], s[i+1:], true
	}
	host, path, _ := strings.Cut(n.repository, "/")
	if !isHost(host) {
		path = n.repository // the grammar takes it for a part of the path if it can be one
	}
	if !isPath(path) || tagged && !isTag(n.tag) {
		return imageName{}, errNameFormat
	}
	if len(path) > maxPath {
		return imageName{}, fmt.Errorf("repository name must not be more than %d characters", maxPath)
	}
	if digested {
		if n.digest, err = digest.Parse(dgst); err != nil {
			return imageName{}, fmt.Errorf("%w: %w", errNameFormat, err)
		}
	} else if !tagged {
		n.tag = "latest"
	}
	return n, nil
}

const (
	lower    = "abcdefghijklmnopqrstuvwxyz"
	upper    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	decimals = "0123456789"
)

// only says whether s has at least one character and none but those of set.
func only(s, set string) bool { return s != "" && strings.Trim(s, set) == "" }

// isHost says whether s is NAME[:PORT] or [IPv6][:PORT].
func isHost(s string) bool {
	if v6, ok := strings.CutPrefix(s, "["); ok {
		address, port, ok := strings.Cut(v6, "]")
		return ok && only(address, decimals+":abcdefABCDEF") && (port == "" || port[0] == ':' && only(port[1:], decimals))
	}
	name, port, ok := strings.Cut(s, ":")
	if ok && !only(port, decimals) {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !only(label, lower+upper+decimals+"-") || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// isPath says whether s is words of small letters and digits, joined by one of / . _ __ or by hyphens.
func isPath(s string) bool {
	const word = lower + decimals
	for {
		rest := strings.TrimLeft(s, word)
		if len(rest) == len(s) {
			return false
		}
		if rest == "" {
			return true
		}
		switch {
		case rest[0] == '-':
			s = strings.TrimLeft(rest, "-")
		case strings.HasPrefix(rest, "__"):
			s = rest[2:]
		case strings.IndexByte("/._", rest[0]) >= 0:
			s = rest[1:]
		default:
			return false
		}
	}
}

func isTag(s string) bool {
	return len(s) <= maxTag && only(s, lower+upper+decimals+"_.-") && s[0] != '.' && s[0] != '-'
}
