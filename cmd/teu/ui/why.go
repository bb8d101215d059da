//go:build !front && !porter

package ui

import (
	"fmt"

	"github.com/teu-dev/teu/build"
)

// Why prints why steps of a build ran:
//
//	Why steps ran:
//	  [2/3] COPY src /src
//	    /src/main.c changed
func (u *UI) Why(reasons []build.Reason) {
	if len(reasons) == 0 {
		fmt.Fprintln(u.Err, "No step ran: every result was in the cache.")
		return
	}
	fmt.Fprintln(u.Err, "Why steps ran:")
	for _, r := range reasons {
		fmt.Fprintf(u.Err, "  %s\n", printable(r.Step))
		for _, line := range r.Because {
			fmt.Fprintf(u.Err, "    %s\n", printable(line))
		}
	}
}
