package runner

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/statefile"
)

// Top lists the processes of a running container with the columns ps(1) would show for
// args ("-ef" if there are none). It reads the host's /proc and executes nothing, least of
// all anything of the image (CVE-2022-1227).
func (e *Engine) Top(ctx context.Context, ref string, args []string) (titles []string, rows [][]string, err error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if !c.State.Alive() {
		return nil, nil, notRunning(c)
	}
	columns, err := psColumns(args)
	if err != nil {
		return nil, nil, err
	}
	for _, col := range columns {
		titles = append(titles, psTitles()[col])
	}
	pids, err := e.pids(c)
	if err != nil {
		return nil, nil, err
	}
	for _, pid := range pids {
		p, err := readProcess(pid)
		if err != nil {
			continue // it has ended
		}
		var row []string
		for _, col := range columns {
			row = append(row, p.column(col))
		}
		rows = append(rows, row)
	}
	e.tell(c, "top", nil)
	return titles, rows, nil
}

// pids are the processes of a container: those of its control group or, without one,
// those in the PID namespace of its first process.
func (e *Engine) pids(c *Container) ([]int, error) {
	g, err := e.cgroup(c)
	if err != nil {
		return nil, err
	}
	if len(g.Procs()) > 0 {
		pids, err := g.Pids()
		slices.Sort(pids)
		return pids, err
	}
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", c.State.Init.PID))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, d := range entries {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err == nil && ns == want {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

func psTitles() map[string]string {
	return map[string]string{
		"uid": "UID", "user": "USER", "pid": "PID", "ppid": "PPID", "c": "C", "stime": "STIME", "tty": "TTY",
		"time": "TIME", "cmd": "CMD", "args": "COMMAND", "comm": "COMMAND", "rss": "RSS", "vsz": "VSZ", "stat": "STAT",
		"pcpu": "%CPU", "pmem": "%MEM", "start": "START", "ni": "NI", "nlwp": "NLWP", "etime": "ELAPSED",
	}
}

// psColumns understands the arguments of ps that people use with top.
func psColumns(args []string) ([]string, error) {
	var chosen []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		list, ok := strings.CutPrefix(strings.TrimPrefix(arg, "-"), "o")
		switch {
		case arg == "aux" || arg == "-aux" || arg == "u" || arg == "-u":
			return []string{"user", "pid", "pcpu", "pmem", "vsz", "rss", "tty", "stat", "start", "time", "args"}, nil
		case arg == "-eo" || arg == "-o" || arg == "o":
			if i++; i == len(args) {
				return nil, fmt.Errorf("ps %s needs a list of columns: %w", arg, errdefs.ErrInvalidArgument)
			}
			chosen = append(chosen, strings.Split(args[i], ",")...)
		case ok && list != "":
			chosen = append(chosen, strings.Split(list, ",")...)
		case arg == "-ef" || arg == "-e" || arg == "-f" || arg == "ax" || arg == "-A":
		default:
			return nil, fmt.Errorf("ps argument %q: %w", arg, errdefs.ErrNotImplemented)
		}
	}
	for i, c := range chosen {
		if c == "command" {
			chosen[i] = "args"
		}
		if psTitles()[chosen[i]] == "" {
			return nil, fmt.Errorf("ps column %q: %w", c, errdefs.ErrInvalidArgument)
		}
	}
	if len(chosen) == 0 {
		chosen = []string{"uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"}
	}
	return chosen, nil
}

// procStat is what proc_pid_stat(5) tells of a process.
type procStat struct {
	pid     int
	comm    string
	args    string
	uid     string
	fields  []string // those after the name; [0] is field 3
	started time.Time
}

func readProcess(pid int) (*procStat, error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	b, err := os.ReadFile(dir + "stat")
	if err != nil {
		return nil, err
	}
	text := string(b)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return nil, fmt.Errorf("process %d: %w", pid, errdefs.ErrNotFound)
	}
	p := &procStat{pid: pid, comm: text[open+1 : end], fields: strings.Fields(text[end+1:])}
	if len(p.fields) < 24 {
		return nil, fmt.Errorf("process %d: %w", pid, errdefs.ErrNotFound)
	}
	if b, err := os.ReadFile(dir + "cmdline"); err == nil {
		p.args = strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ")
	}
	if p.args == "" {
		p.args = "[" + p.comm + "]"
	}
	p.uid = "?"
	if b, err := os.ReadFile(dir + "status"); err == nil {
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
				p.uid = strings.Fields(rest)[1]
			}
		}
	}
	p.started = bootTime().Add(time.Duration(p.number(22)) * statefile.Tick)
	return p, nil
}

func bootTime() time.Time {
	b, _ := os.ReadFile("/proc/stat")
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "btime "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return time.Unix(n, 0)
		}
	}
	return time.Now()
}

// number is a field by its number in proc_pid_stat(5).
func (p *procStat) number(field int) int64 {
	n, _ := strconv.ParseInt(p.fields[field-3], 10, 64)
	return n
}

func (p *procStat) column(name string) string {
	used := time.Duration(p.number(14)+p.number(15)) * statefile.Tick
	life := time.Since(p.started)
	switch name {
	case "uid", "user":
		if u, err := user.LookupId(p.uid); err == nil {
			return u.Username
		}
		return p.uid
	case "pid":
		return strconv.Itoa(p.pid)
	case "ppid":
		return p.fields[1]
	case "c":
		return strconv.FormatInt(int64(100*used/max(life, 1)), 10)
	case "pcpu":
		return fmt.Sprintf("%.1f", 100*float64(used)/float64(max(life, 1)))
	case "pmem":
		return "0.0"
	case "stime", "start":
		if life < 24*time.Hour {
			return p.started.Format("15:04")
		}
		return p.started.Format("Jan02")
	case "tty":
		return ttyName(p.number(7))
	case "time":
		s := int64(used / time.Second)
		return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
	case "etime":
		s := int64(life / time.Second)
		return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
	case "cmd", "args":
		return p.args
	case "comm":
		return p.comm
	case "vsz":
		return strconv.FormatInt(p.number(23)/1024, 10)
	case "rss":
		return strconv.FormatInt(p.number(24)*int64(os.Getpagesize())/1024, 10)
	case "stat":
		return p.fields[0]
	case "ni":
		return p.fields[16]
	case "nlwp":
		return p.fields[17]
	}
	return "-"
}

// ttyName names the terminals of devpts; others are not seen in containers.
func ttyName(dev int64) string {
	major, minor := dev>>8&0xfff, dev&0xff|dev>>12&0xfff00
	if major < 136 || major > 143 {
		return "?"
	}
	return fmt.Sprintf("pts/%d", (major-136)<<8|minor)
}
