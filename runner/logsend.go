package runner

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/docker/go-units"

	"github.com/teu-dev/teu/runner/keeper"
)

// What the keeper must know to send a container's lines is all found out here, when the container
// starts: templates, regular expressions and the resolver would make the keeper large.

const (
	journalSocket = "/run/systemd/journal/socket"

	// defaultLogBuffer is docker's max-buffer-size, and how much a container that waits for the log server is ahead of it.
	defaultLogBuffer = 1 << 20
)

// logSender is what the keeper must know to send the lines of c; nil if they are not sent.
func (e *Engine) logSender(ctx context.Context, c *Container) (*keeper.Sender, error) {
	o := &c.Options
	if !o.sendsLog() {
		return nil, nil
	}
	s, err := newSender(c)
	if err == nil {
		s.Targets, err = o.logTargets(ctx)
	}
	if err == nil && s.Targets[0].Network == "tls" {
		s.Relay = e.teu(append([]string{"log-relay"}, o.relayFlags()...)...)
		s.Counted = strings.HasPrefix(s.Format, "rfc5424")
	}
	if err != nil {
		return nil, fmt.Errorf("failed to initialize logging driver: %w", err)
	}
	return s, nil
}

// relayFlags are those of `teu log-relay` for the options of a container.
func (o *Options) relayFlags() (flags []string) {
	for _, f := range [...]struct{ option, flag string }{{"ca-cert", "--ca"}, {"cert", "--cert"}, {"key", "--key"}} {
		if v := o.LogOptions["syslog-tls-"+f.option]; v != "" {
			flags = append(flags, f.flag+"="+v)
		}
	}
	if _, ok := o.LogOptions["syslog-tls-skip-verify"]; ok { // whatever it says, as for dockerd
		flags = append(flags, "--skip-verify")
	}
	return flags
}

func newSender(c *Container) (*keeper.Sender, error) {
	o := c.Options.LogOptions
	s := &keeper.Sender{Driver: c.Options.LogDriver, Buffer: defaultLogBuffer, Drop: o["mode"] == "non-blocking"}
	if v, ok := o["max-buffer-size"]; ok {
		n, err := units.RAMInBytes(v)
		if err != nil {
			return s, err
		}
		s.Buffer = n
	}
	// Five tries take about seven seconds.
	s.Retries, s.RetryMillis = 5, 500
	var err error
	if s.Host, err = os.Hostname(); err != nil {
		return s, err
	}
	if s.Tag, err = logTag(c); err != nil {
		return s, err
	}
	switch s.Driver {
	case "syslog":
		s.Format = o["syslog-format"]
		s.Facility, err = syslogFacility(o["syslog-facility"])
	case "journald":
		s.Static = journalFields(c, s.Tag)
	case "fluentd":
		err = setFluentd(s, c)
	case "gelf":
		err = setGELF(s, c)
	}
	return s, err
}

// logTargets are the addresses of the log server. Those of a name are all that it has now.
func (o *Options) logTargets(ctx context.Context) (list []keeper.Target, err error) {
	if o.LogDriver == "journald" {
		return []keeper.Target{{Network: "unixgram", Address: journalSocket}}, nil
	}
	a, err := o.logAddress()
	switch {
	case err != nil:
		return nil, err
	case a.path != "":
		return []keeper.Target{{Network: a.network, Address: a.path}}, nil
	case a.network == "tls": // its name is looked up at each connection
		return []keeper.Target{{Network: a.network, Address: a.host}}, nil
	case a.network == "": // syslog of this machine, where its clients look for it
		for _, network := range []string{"unixgram", "unix"} {
			for _, path := range []string{"/dev/log", "/var/run/syslog", "/var/run/log"} {
				list = append(list, keeper.Target{Network: network, Address: path})
			}
		}
		return list, nil
	}
	host, service, err := net.SplitHostPort(a.host)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	port, err := net.DefaultResolver.LookupPort(ctx, a.network, service)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", a.network, err)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", a.network, err)
	}
	for _, ip := range ips {
		list = append(list, keeper.Target{Network: a.network, Address: netip.AddrPortFrom(ip.Unmap(), uint16(port)).String()})
	}
	return list, nil
}

// logInfo is what a template of the option tag sees, by docker's names (moby, daemon/logger/loginfo.go).
type logInfo struct {
	c *Container

	Config              map[string]string
	ContainerID         string
	ContainerName       string
	ContainerEntrypoint string
	ContainerArgs       []string
	ContainerImageID    string
	ContainerImageName  string
	ContainerCreated    time.Time
	ContainerEnv        []string
	ContainerLabels     map[string]string
	LogPath             string
	DaemonName          string
}

func newLogInfo(c *Container) *logInfo {
	i := &logInfo{
		c: c, Config: c.Options.LogConfig(), ContainerID: c.ID, ContainerName: "/" + c.Name, ContainerImageID: c.ImageID.String(),
		ContainerImageName: c.Options.Image, ContainerCreated: c.Created, ContainerEnv: c.inspectConfig().Env,
		ContainerLabels: c.Labels(), DaemonName: "docker",
	}
	if argv := c.command(); len(argv) > 0 {
		i.ContainerEntrypoint, i.ContainerArgs = argv[0], argv[1:]
	}
	return i
}

func shortID(id string) string {
	_, hex, found := strings.Cut(id, ":")
	if !found {
		hex = id
	}
	return hex[:min(12, len(hex))]
}

// ID is short.
func (i *logInfo) ID() string { return shortID(i.ContainerID) }

// FullID is the whole ID.
func (i *logInfo) FullID() string { return i.ContainerID }

// Name is the container's.
func (i *logInfo) Name() string { return i.c.Name }

// ImageID is short.
func (i *logInfo) ImageID() string { return shortID(i.ContainerImageID) }

// ImageFullID is the image's ID.
func (i *logInfo) ImageFullID() string { return i.ContainerImageID }

// ImageName is the image as it was asked for.
func (i *logInfo) ImageName() string { return i.ContainerImageName }

// Command is the command line.
func (i *logInfo) Command() string { return i.c.Command() }

// Hostname is the machine's.
func (i *logInfo) Hostname() (string, error) { return os.Hostname() }

// ExtraAttributes are the labels and variables that the options name.
func (i *logInfo) ExtraAttributes(rename func(string) string) map[string]string {
	return i.c.logAttributes(rename)
}

// logTag is the option tag, a template, for a container.
func logTag(c *Container) (string, error) {
	text := cmp.Or(c.Options.LogOptions["tag"], "{{.ID}}")
	info := newLogInfo(c)
	if text == "{{.ID}}" {
		return info.ID(), nil
	}
	t, err := template.New("log-tag").Funcs(template.FuncMap{
		"json": func(v any) string {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			enc.Encode(v)
			return strings.TrimSpace(b.String())
		},
		"split": strings.Split, "join": strings.Join, "lower": strings.ToLower, "upper": strings.ToUpper,
		//lint:ignore SA1019 docker's function
		"title": strings.Title,
		"pad": func(s string, before, after int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
		},
		"truncate": func(s string, n int) string { return s[:min(n, len(s))] },
	}).Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Execute(&b, info); err != nil {
		return "", err
	}
	return b.String(), nil
}

// journalFields are the fields of all messages of a run in systemd's journal.
func journalFields(c *Container, tag string) (b []byte) {
	fields := map[string]string{
		"CONTAINER_ID": shortID(c.ID), "CONTAINER_ID_FULL": c.ID, "CONTAINER_NAME": c.Name, "CONTAINER_TAG": tag,
		"IMAGE_NAME": c.Options.Image, "SYSLOG_IDENTIFIER": tag, "CONTAINER_LOG_EPOCH": newID(),
	}
	maps.Copy(fields, c.logAttributes(journalName))
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		if k != "" {
			b = keeper.AppendJournalField(b, k, fields[k])
		}
	}
	return b
}

// journalName is what a field of the journal is called: of capital letters, digits and underscores, of which the
// first is none.
func journalName(name string) string {
	clean := func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}
	return strings.TrimLeft(strings.Map(clean, name), "_")
}

func setFluentd(s *keeper.Sender, c *Container) error {
	var f fluentdOptions
	for k, v := range c.Options.LogOptions {
		if strings.HasPrefix(k, "fluentd-") && k != "fluentd-address" {
			if err := f.set(&c.Options, k, v); err != nil {
				return err
			}
		}
	}
	s.Precise, s.Ack, s.Lazy = f.precise, f.ack, f.async
	s.Retries, s.RetryMillis = f.retries, cmp.Or(f.retryWait, time.Second).Milliseconds()
	s.WriteMillis, s.ReadMillis = f.write.Milliseconds(), cmp.Or(f.read, time.Minute).Milliseconds()
	if f.async {
		s.Drop, s.Buffer = true, cmp.Or(f.buffer, s.Buffer)
	}
	pairs := c.logAttributes(nil)
	for k, v := range map[string]string{"container_id": c.ID, "container_name": "/" + c.Name} {
		if _, ok := pairs[k]; !ok {
			pairs[k] = v
		}
	}
	s.Static = binary.BigEndian.AppendUint16(nil, uint16(len(pairs)))
	for _, k := range slices.Sorted(maps.Keys(pairs)) {
		s.Static = keeper.AppendPackedPair(s.Static, k, pairs[k])
	}
	return nil
}

func setGELF(s *keeper.Sender, c *Container) (err error) {
	o := c.Options.LogOptions
	s.Format, s.Level = cmp.Or(o["gelf-compression-type"], "gzip"), 1
	var seconds int // before the second try, on TCP
	tcp := strings.HasPrefix(o["gelf-address"], "tcp:")
	if tcp {
		s.Retries, seconds = 3, 1
	}
	for k, to := range map[string]*int{"gelf-compression-level": &s.Level, "gelf-tcp-max-reconnect": &s.Retries, "gelf-tcp-reconnect-delay": &seconds} {
		if v, ok := o[k]; ok {
			if *to, err = strconv.Atoi(v); err != nil {
				return err
			}
		}
	}
	if tcp {
		s.RetryMillis = int64(seconds) * 1000
	}
	s.Retries = max(1, s.Retries)
	extra := map[string]any{
		"_container_id": c.ID, "_container_name": c.Name, "_image_id": c.ImageID.String(), "_image_name": c.Options.Image,
		"_command": c.Command(), "_tag": s.Tag, "_created": c.Created,
	}
	for k, v := range c.logAttributes(func(k string) string { return "_" + strings.TrimPrefix(k, "_") }) {
		extra[k] = v
	}
	b, err := json.Marshal(extra)
	if err != nil {
		return err
	}
	s.Static = b[1:]
	return nil
}
