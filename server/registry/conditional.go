package registry

import (
	"net/http"
	"strconv"
	"strings"
)

// noneMatch reports whether a client that has what the list of an If-None-Match names has what is
// tagged etag. RFC 9110, 13.1.2: tags are compared weakly. Some clients send the bare digest, which
// distribution takes too.
func noneMatch(list []string, etag string) bool {
	for _, line := range list {
		for tag := range strings.SplitSeq(line, ",") {
			tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
			if tag == "*" || tag == etag || tag != "" && tag == strings.Trim(etag, `"`) {
				return true
			}
		}
	}
	return false
}

// checkRange answers, for http.ServeContent, for ranges of which it makes something else: those of
// another unit than bytes are ignored (RFC 9110, 14.2), and the last zero bytes of something cannot be
// had. Like other errors of the API, the answer to a range that is not there has a document.
func checkRange(w http.ResponseWriter, r *http.Request, size int64) error {
	s := r.Header.Get("Range")
	if s == "" || size == 0 || r.Header.Get("If-Range") != "" {
		return nil
	}
	s, ok := strings.CutPrefix(s, "bytes=")
	if !ok {
		r.Header.Del("Range")
		return nil
	}
	for one := range strings.SplitSeq(s, ",") {
		if satisfiable(one, size) {
			return nil
		}
	}
	w.Header().Del("Cache-Control") // the blob never changes, what is asked for does
	w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
	return &apiError{http.StatusRequestedRangeNotSatisfiable, codeSizeInvalid, "the range is not in the " + strconv.FormatInt(size, 10) + " bytes of the blob", nil}
}

// satisfiable reports whether one range, "2-5", "2-" or "-5", has bytes among the first size.
func satisfiable(s string, size int64) bool {
	first, last, ok := strings.Cut(strings.TrimSpace(s), "-")
	if !ok {
		return false
	}
	end := size
	if last != "" {
		if end, ok = parseOffset(last); !ok {
			return false
		}
	}
	if first == "" {
		return last != "" && end > 0
	}
	start, ok := parseOffset(first)
	return ok && start < size && start <= end
}
