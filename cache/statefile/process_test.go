package statefile

import "testing"

func FuzzParseStat(f *testing.F) {
	f.Add("1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0")
	f.Add("7 (a) R ) b) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 43 0 0")
	f.Add(") Z")
	f.Add("")
	f.Fuzz(func(t *testing.T, stat string) {
		state, _, err := parseStat(stat)
		if err == nil && state == "" {
			t.Errorf("%q: no state and no error", stat)
		}
	})
}

func TestParseStat(t *testing.T) {
	for stat, want := range map[string]uint64{
		"1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0":        42,
		"7 (a) R ) b) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 43 0 0":    43,
		"8 (new\nline 9) Z 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 44 0 0": 44,
	} {
		if _, got, err := parseStat(stat); got != want || err != nil {
			t.Errorf("%q: got %d, %v, want %d", stat, got, err, want)
		}
	}
	if _, _, err := parseStat("1 (x) S 1 2"); err == nil {
		t.Error("a short line was taken")
	}
}
