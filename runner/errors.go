package runner

import (
	"fmt"
	"strings"
)

// wordedError has docker's own words, which scripts look for, and a class.
type wordedError struct {
	text  string
	class error
}

func worded(class error, format string, args ...any) error {
	return &wordedError{fmt.Sprintf(format, args...), class}
}

func (e *wordedError) Error() string { return e.text }
func (e *wordedError) Unwrap() error { return e.class }

// WithTag is how docker names an image that is missing.
func WithTag(name string) string {
	if strings.Contains(name, "@") || strings.LastIndexByte(name, ':') > strings.LastIndexByte(name, '/') {
		return name
	}
	return name + ":latest"
}
