package userns

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSubordinate(t *testing.T) {
	const file = `# comment
ann:100000:65536
bob:165536:65536
1000:300000:10
ann:x:65536
ann:1:0
ann:0:5
ann:4294967290:10
 ann:400000:1
ann:1:2:3
annie:5:5
`
	for _, tc := range []struct {
		name string
		uid  uint32
		want []Range
	}{
		{"ann", 1, []Range{{100000, 65536}, {400000, 1}}},
		{"ann", 1000, []Range{{100000, 65536}, {300000, 10}, {400000, 1}}},
		{"eve", 2, nil},
	} {
		got, err := parseSubordinate(strings.NewReader(file), tc.name, tc.uid)
		if d := cmp.Diff(tc.want, got); err != nil || d != "" {
			t.Errorf("%s, %d: %v %s", tc.name, tc.uid, err, d)
		}
	}
}

func TestArguments(t *testing.T) {
	got := strings.Join(arguments(1000, []Range{{100000, 65536}, {400000, 10}}), " ")
	if want := "0 1000 1 1 100000 65536 65537 400000 10"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSameMap(t *testing.T) {
	for own, want := range map[string]string{
		"         0          0 4294967295\n":                  "0 0 4294967294\n",
		"         0     100000      65536\n":                  "0 0 65536\n",
		"         0       1000          1\n 1 100000 65536\n": "0 0 1\n1 1 65536\n",
		"4294967294 7 1\n":                                    "",
	} {
		if got := sameMap(own); got != want {
			t.Errorf("%q: %q, want %q", own, got, want)
		}
	}
}

// FuzzSubordinate holds that no line of the file makes a range the kernel would refuse.
func FuzzSubordinate(f *testing.F) {
	f.Add("ann:100000:65536\nann:1:1\n")
	f.Add("7:4294967295:1\nann:1:4294967295")
	f.Add(":::\x00\nann:-1:1")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseSubordinate(strings.NewReader(text), "ann", 7)
		if err != nil {
			return
		}
		if len(list) > maxRanges {
			t.Fatalf("%d ranges", len(list))
		}
		for _, r := range list {
			if r.Count == 0 || uint64(r.Start)+uint64(r.Count) >= 1<<32 {
				t.Fatalf("range %+v of %q", r, text)
			}
		}
	})
}
