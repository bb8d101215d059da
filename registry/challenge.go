package registry

import (
	"net/http"
	"strings"
)

// challenge is one way a server offers to authenticate (RFC 9110, section 11.6.1).
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// parseChallenges reads WWW-Authenticate. A header may hold several challenges, and
// commas separate both challenges and parameters. Malformed parts are skipped.
func parseChallenges(h http.Header) []challenge {
	var list []challenge
	for _, v := range h.Values("WWW-Authenticate") {
		if len(v) > 16<<10 {
			continue
		}
		list = append(list, parseChallenge(v)...)
	}
	return list
}

func parseChallenge(s string) []challenge {
	var list []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := token(s)
		if word == "" {
			return list
		}
		s = strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(s, "=") {
			list = append(list, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
			continue
		}
		var value string
		value, s = paramValue(strings.TrimLeft(s[1:], " \t"))
		if len(list) > 0 {
			list[len(list)-1].params[strings.ToLower(word)] = value
		}
	}
}

// token cuts the leading token of RFC 9110, section 5.6.2.
func token(s string) (word, rest string) {
	end := strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
	if end < 0 {
		return s, ""
	}
	return s[:end], s[end:]
}

func paramValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		// Some servers do not quote an address, which is no token.
		if end := strings.IndexAny(s, ", \t"); end >= 0 {
			return s[:end], s[end:]
		}
		return s, ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
