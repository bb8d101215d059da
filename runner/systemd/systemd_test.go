package systemd

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
)

func TestParseScope(t *testing.T) {
	for path, want := range map[string]string{
		"":                               "/system.slice/teu-oci-ID.scope",
		"machine.slice:libpod:abc":       "/machine.slice/libpod-abc.scope",
		"::abc":                          "/system.slice/abc.scope",
		"a-b-c.slice:x:y":                "/a.slice/a-b.slice/a-b-c.slice/x-y.scope",
		"-.slice:x:y":                    "/x-y.scope",
		"/kubepods/pod1":                 "",
		"a.slice:x":                      "",
		"a.slice:x:y:z":                  "",
		"a.slice:x:":                     "",
		"a.slice:x:y.slice":              "",
		"a.slice:../x:y":                 "",
		"a.slice:x:y/../../z":            "",
		"../a.slice:x:y":                 "",
		"a--b.slice:x:y":                 "",
		"-a.slice:x:y":                   "",
		"a:x:y":                          "",
		".slice:x:y":                     "",
		"a.slice:x:" + string([]byte{0}): "",
	} {
		got := ""
		s, err := ParseScope(path, "ID", false)
		if err == nil {
			if got, err = s.Path(); err != nil {
				t.Errorf("%q: %v", path, err)
			}
		}
		if got != want {
			t.Errorf("%q is %q, %v; want %q", path, got, err, want)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, tt := range []struct{ file, value, want string }{
		{"memory.max", "1000", "MemoryMax=@t 1000"},
		{"memory.swap.max", "max", "MemorySwapMax=@t 18446744073709551615"},
		{"pids.max", "7", "TasksMax=@t 7"},
		{"cpu.max", "25000 50000", "CPUQuotaPerSecUSec=@t 500000 CPUQuotaPeriodUSec=@t 50000"},
		{"cpu.max", "33333", "CPUQuotaPerSecUSec=@t 340000"}, // hundredths, the next one above
		{"cpu.max", "max 100000", "CPUQuotaPerSecUSec=@t 18446744073709551615 CPUQuotaPeriodUSec=@t 100000"},
		{"cpu.max", "1 0", ""},
		{"cpuset.cpus", "0-1,9", "AllowedCPUs=@ay [0x3, 0x2]"},
		{"cpuset.mems", "0", "AllowedMemoryNodes=@ay [0x1]"},
		{"cpuset.cpus", "0-99999999", ""},
		{"cpuset.cpus", "x", ""},
		{"hugetlb.2MB.max", "4", ""},
	} {
		got := ""
		for _, p := range limits(maps.All(map[string]string{tt.file: tt.value})) {
			got += fmt.Sprintf(" %s=%s", p.Name, p.Value)
		}
		if got != "" {
			got = got[1:]
		}
		if got != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.file, tt.value, got, tt.want)
		}
	}
}

// answer is a systemd that answers each call as it is told to.
func answer(t *testing.T, reply func(method string, args []any) []any) *Manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for said := ""; said != "BEGIN\r\n"; { // D-Bus specification, "Authentication Protocol"
			if said, err = in.ReadString('\n'); err != nil {
				return
			}
			switch strings.Trim(said, "\x00\r\n") {
			case "AUTH":
				fmt.Fprint(conn, "REJECTED EXTERNAL\r\n")
			case "AUTH EXTERNAL":
				fmt.Fprint(conn, "DATA\r\n")
			case "NEGOTIATE_UNIX_FD":
				fmt.Fprint(conn, "ERROR\r\n")
			case "BEGIN":
			default:
				fmt.Fprint(conn, "OK 0\r\n")
			}
		}
		for first := true; ; first = false {
			call, err := dbus.DecodeMessage(in)
			if err != nil {
				return
			}
			if first {
				continue // as systemd may, until another one comes
			}
			member, _ := call.Headers[dbus.FieldMember].Value().(string)
			back := &dbus.Message{Type: dbus.TypeMethodReply, Body: reply(member, call.Body), Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
			}}
			if len(back.Body) > 0 {
				back.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(back.Body...))
			}
			if err := back.EncodeTo(conn, binary.LittleEndian); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	m, err := door{address: "unix:path=" + path, uid: os.Geteuid()}.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		l.Close()
		<-done
	})
	return m
}

// What is undone is what systemd knew, not what was in the files, and nothing else.
func TestChange(t *testing.T) {
	known := map[string]dbus.Variant{
		"TasksMax": dbus.MakeVariant(uint64(7)), "CPUWeight": dbus.MakeVariant(uint64(100)), "AllowedCPUs": dbus.MakeVariant([]byte{}),
	}
	var heard []string
	m := answer(t, func(method string, args []any) []any {
		if method == "Ping" {
			return nil
		}
		heard = append(heard, method+fmt.Sprint(args))
		switch method {
		case "GetUnit":
			return []any{dbus.ObjectPath("/unit/x")}
		case "GetAll":
			return []any{known}
		}
		return nil
	})
	undo, err := m.Change(t.Context(), Scope{Unit: "x.scope"}, func(yield func(string, string) bool) {
		_ = yield("pids.max", "9") && yield("cpuset.cpus", "1")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	const set = "SetUnitProperties[x.scope true "
	want := []string{"GetUnit[x.scope]", "GetAll[org.freedesktop.systemd1.Scope]",
		set + "[[TasksMax @t 9] [AllowedCPUs @ay [0x2]]]]", set + "[[TasksMax @t 7] [AllowedCPUs @ay []]]]"}
	if diff := cmp.Diff(want, heard); diff != "" {
		t.Error(diff)
	}
}

func TestAnnotated(t *testing.T) {
	for text, want := range map[string]string{
		"TimeoutStopUSec=uint64 5": "TimeoutStopUSec=@t 5",
		"TimeoutStopSec=1.5":       "TimeoutStopUSec=@t 1500000",
		"TimeoutStopSec=uint64 2":  "TimeoutStopUSec=@t 2000000",
		"CollectMode='inactive'":   `CollectMode="inactive"`,
		`Description="it's"`:       `Description="it's"`,
		"After=['a b', \"c\"]":     `After=["a b", "c"]`,
		"Delegate=true":            "Delegate=true",
		"CPUWeight=7":              "CPUWeight=7",
		"Load=0.5":                 "Load=@d 0.5",
		"After=['a'":               "",
		"After=[1]":                "",
		"Description='a' 'b'":      "",
		"CPUWeight=uint64 -1":      "",
		"TimeoutStopSec='x'":       "",
		"TimeoutStopSec=-1":        "",
		"a=1":                      "",
		"../../X=1":                "",
		"TasksMax=":                "",
		"TasksMax='":               "",
	} {
		name, value, _ := strings.Cut(text, "=")
		list, err := annotated(map[string]string{"org.systemd.property." + name: value, "other": "x"})
		got := ""
		if err == nil && len(list) == 1 {
			got = list[0].Name + "=" + list[0].Value.String()
		}
		if got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
}

// FuzzAnnotated: annotations come from whoever may run containers.
func FuzzAnnotated(f *testing.F) {
	for _, text := range []string{"uint64 5", "'x'", "[1, 2]", "['a', 'b']", "0.5", "b'x'", "@as []", "[[[[["} {
		f.Add("TasksMax", text)
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		if len(text) > 1<<12 {
			return
		}
		if list, err := annotated(map[string]string{"org.systemd.property." + name: text}); err == nil && len(list) != 1 {
			t.Errorf("%s=%s: %v", name, text, list)
		}
	})
}
