package userns

import "testing"

func TestParseOwn(t *testing.T) {
	for text, want := range map[string][2]uint32{
		"         0       1000          1\n         1     100000      65536\n": {1000, 65536},
		"0 1000 1\n1 100000 10\n11 400000 5\n":                                 {1000, 15},
		"0 1000 1\n":                                                           {1000, 0},
		"0 1000 1\n1 100000 10\n20 400000 5\n":                                 {1000, 10}, // a gap
		"0 100000 65536\n":                                                     {100000, 65535},
		"0 0 4294967295\n":                                                     {0, 1<<32 - 2},
	} {
		id, others, err := parseOwn(text)
		if err != nil || id != want[0] || others != want[1] {
			t.Errorf("%q: %d and %d others, %v", text, id, others, err)
		}
	}
	for _, text := range []string{"", "5 1000 1\n", "x\n"} {
		if id, others, err := parseOwn(text); err == nil {
			t.Errorf("%q: %d and %d others", text, id, others)
		}
	}
}
