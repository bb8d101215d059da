package runner

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/userns"
)

func TestParseUserns(t *testing.T) {
	m := func(inside, outside, size uint32) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: inside, HostID: outside, Size: size}}
	}
	for text, want := range map[string]usernsMode{
		"":             {kind: "host"},
		"host":         {kind: "host"},
		"auto":         {kind: "auto"},
		"auto:size=10": {kind: "auto", size: 10},
		"keep-id":      {kind: "keep-id"},
		"container:x":  {kind: "container", container: "x"},
		"auto:size=8,uidmapping=0:1000:1,gidmapping=5:6:7": {kind: "auto", size: 8, uids: m(0, 1000, 1), gids: m(5, 6, 7)},
	} {
		got, err := parseUserns(text)
		if d := cmp.Diff(want, got, cmp.AllowUnexported(usernsMode{})); err != nil || d != "" {
			t.Errorf("%q: %v %s", text, err, d)
		}
	}
	for _, text := range []string{
		"nomap", "nomap:x", "private", "keep-id:uid=1", "host:x", "auto:", "auto:size=", "auto:size=0", "auto:size=4294967296", "auto:size=-1", "auto:x=1",
		"auto:uidmapping=0:0", "auto:uidmapping=0:0:0", "auto:uidmapping=0:4294967295:1", "auto:uidmapping=0:1:2,uidmapping=1:9:1",
		"auto:gidmapping=0:1:2,gidmapping=7:2:1", "ns:/proc/1/ns/user", "container:",
	} {
		if got, err := parseUserns(text); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// FuzzParseUserns holds that what is understood can be mapped: no ID is there twice and none
// is beyond the last.
func FuzzParseUserns(f *testing.F) {
	for _, s := range []string{"auto", "auto:size=5,uidmapping=0:0:1", "auto:gidmapping=4294967294:0:1,gidmapping=1:1:1", "keep-id", "auto:size=2147483647"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseUserns(text)
		if err != nil || m.kind != "auto" {
			return
		}
		size := m.size
		if size == 0 {
			size = defaultIDs
		}
		list, err := mapIDs(m.uids, size, []userns.Range{defaultRange()}, nil)
		if err != nil {
			return
		}
		for i, r := range list {
			if r.Size == 0 || overlaps(list[:i], r) || uint64(r.ContainerID)+uint64(r.Size) > 1<<32-1 || uint64(r.HostID)+uint64(r.Size) > 1<<32-1 {
				t.Fatalf("%q: %+v", text, list)
			}
		}
	})
}

// TestAround holds that with keep-id everybody whom the user has is somebody inside, the user who
// was asked for.
func TestAround(t *testing.T) {
	r := func(inside, outside, size uint32) specs.LinuxIDMapping {
		return specs.LinuxIDMapping{ContainerID: inside, HostID: outside, Size: size}
	}
	for _, tc := range []struct {
		own, others uint32
		want        []specs.LinuxIDMapping
	}{
		{1000, 65536, []specs.LinuxIDMapping{r(0, 1, 1000), r(1000, 0, 1), r(1001, 1001, 64536)}},
		{0, 65536, []specs.LinuxIDMapping{r(0, 0, 1), r(1, 1, 65536)}},
		{1000, 1000, []specs.LinuxIDMapping{r(0, 1, 1000), r(1000, 0, 1)}},
		{100000, 5, []specs.LinuxIDMapping{r(0, 1, 5), r(100000, 0, 1)}},
	} {
		if d := cmp.Diff(tc.want, around(tc.own, tc.others)); d != "" {
			t.Errorf("%d among %d: %s", tc.own, tc.others, d)
		}
	}
}

func TestGiven(t *testing.T) {
	ids := &UserIDs{UIDs: around(1000, 2000), GIDs: around(100, 2000), OnDisk: true}
	if uid, gid, err := ids.given(0, 100); uid != 1 || gid != 0 || err != nil {
		t.Errorf("%d:%d, %v", uid, gid, err)
	}
	if _, _, err := ids.given(0, 2001); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a group the container does not have: %v", err)
	}
	if !ids.copied() || ids.mapped() {
		t.Error("files are not copied, but mapped")
	}
}

func TestMapIDs(t *testing.T) {
	r := func(n ...uint32) (list []specs.LinuxIDMapping) {
		for ; len(n) > 0; n = n[3:] {
			list = append(list, specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
		}
		return list
	}
	ranges := []userns.Range{{Start: 100, Count: 10}, {Start: 200, Count: 50}}
	for _, tc := range []struct {
		name       string
		own, taken []specs.LinuxIDMapping
		size       uint32
		want       []specs.LinuxIDMapping // nil: there are none
	}{
		{"first", nil, nil, 10, r(0, 100, 10)},
		{"too many for the first range", nil, nil, 11, r(0, 200, 11)},
		{"before what is taken", nil, r(0, 105, 5), 5, r(0, 100, 5)},
		{"between", nil, r(0, 100, 10, 0, 200, 10, 0, 215, 35), 5, r(0, 210, 5)},
		{"taken beyond the range", nil, r(0, 90, 15), 5, r(0, 105, 5)},
		{"all taken", nil, r(0, 0, 1000), 1, nil},
		{"too many", nil, nil, 51, nil},
		{"own in the middle", r(3, 7, 2), nil, 8, r(0, 100, 3, 3, 7, 2, 5, 103, 3)},
		{"own at the ends", r(0, 7, 2, 6, 50, 4), nil, 8, r(0, 7, 2, 2, 100, 4, 6, 50, 4)},
		{"own is everything", r(0, 7, 8), nil, 8, r(0, 7, 8)},
		{"own out of a range", r(0, 102, 2), nil, 6, r(0, 102, 2, 2, 104, 4)},
	} {
		got, err := mapIDs(tc.own, tc.size, ranges, tc.taken)
		if d := cmp.Diff(tc.want, got); d != "" || (err == nil) != (tc.want != nil) {
			t.Errorf("%s: %v %s", tc.name, err, d)
		}
	}
}

func TestUserIDsTranslate(t *testing.T) {
	var none *UserIDs
	ids := &UserIDs{UIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}, GIDs: []specs.LinuxIDMapping{{ContainerID: 5, HostID: 50, Size: 1}}}
	for _, tc := range []struct {
		what      string
		got, want string
	}{
		{"no namespace, out", fmt.Sprint(none.outside(3, 4)), fmt.Sprint(3, 4)},
		{"no namespace, in", fmt.Sprint(none.inside(3, 4)), fmt.Sprint(3, 4)},
		{"out", fmt.Sprint(ids.outside(9, 5)), fmt.Sprint(1009, 50)},
		{"in", fmt.Sprint(ids.inside(1009, 50)), fmt.Sprint(9, 5)},
		{"nobody's, out", fmt.Sprint(ids.outside(10, 4)), fmt.Sprint(overflowID, overflowID)},
		{"nobody's, in", fmt.Sprint(ids.inside(0, 0)), fmt.Sprint(overflowID, overflowID)},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.what, tc.got, tc.want)
		}
	}
	if none.shifted() || !ids.shifted() || (&UserIDs{UIDs: []specs.LinuxIDMapping{{Size: 5}}}).shifted() {
		t.Error("shifted")
	}
}
