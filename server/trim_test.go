package server

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestTrim(t *testing.T) {
	program, err := os.ReadFile("/proc/self/exe") // so that all of it is in the page cache
	if err != nil {
		t.Fatal(err)
	}
	before := residentFile(t)
	if err := Trim(); err != nil {
		t.Fatal(err)
	}
	if after := residentFile(t); after >= before {
		t.Errorf("%d kB of the program before, %d after; it has %d", before, after, len(program)>>10)
	}
}

// residentFile is RssFile of this process in kB; proc_pid_status(5).
func residentFile(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(status), "RssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if !ok || err != nil {
		t.Fatalf("%s: %v", status, err)
	}
	return n
}

func TestUnchanged(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-00402000 r-xp 00000000 08:01 12 /bin/teu":                   true,
		"00402000-00404000 r--p 00002000 08:01 12                  /bin/teu":  true,
		"00404000-00406000 rw-p 00004000 08:01 12                  /bin/teu":  false,
		"00404000-00406000 r--s 00004000 08:01 12                  /bin/teu":  false,
		"00404000-00406000 r--p 00004000 08:01 12                  /bin/teu2": false,
		"7f0000000000-7f0000001000 r--p 00000000 00:00 0":                     false,
		"7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0           [vdso]":    false,
		"": false,
	} {
		if begin, end, ok := unchanged(line, "/bin/teu"); ok != want || ok && end-begin != 0x2000 {
			t.Errorf("%q: %x-%x, %t", line, begin, end, ok)
		}
	}
}
