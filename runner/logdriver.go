package runner

import (
	"cmp"
	"compress/flate"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

// Options of the drivers that send lines elsewhere, with dockerd's words for what is wrong.

// logAddress is where a driver sends to: a host and port of tcp, udp or tls, or a path.
type logAddress struct{ network, host, path string }

func invalidLog(err error) error {
	if err == nil || errors.Is(err, errdefs.ErrInvalidArgument) {
		return err
	}
	return worded(errdefs.ErrInvalidArgument, "%v", err)
}

// checkLogAddress looks at the address of the log server as far as that can be done without asking anybody.
func (o *Options) checkLogAddress() error {
	_, err := o.logAddress()
	return invalidLog(err)
}

func (o *Options) logAddress() (logAddress, error) {
	switch o.LogDriver {
	case "syslog":
		return syslogAddress(o.LogOptions["syslog-address"])
	case "fluentd":
		address := o.LogOptions["fluentd-address"]
		a, err := fluentdAddress(address)
		if err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			err = fmt.Errorf("invalid fluentd-address (%s): %w", address, err)
		}
		return a, err
	case "gelf":
		return gelfAddress(o.LogOptions["gelf-address"])
	}
	return logAddress{}, nil
}

// syslogAddress parses syslog-address. Empty is what listens on this machine.
func syslogAddress(address string) (a logAddress, err error) {
	if address == "" {
		return a, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return a, err
	}
	switch u.Scheme {
	case "unix", "unixgram":
		_, err := os.Stat(u.Path)
		return logAddress{network: u.Scheme, path: u.Path}, err
	case "tcp", "udp", "tcp+tls":
	default:
		return a, fmt.Errorf("unsupported scheme: '%s'", u.Scheme)
	}
	host := u.Host
	if _, _, err := net.SplitHostPort(host); err != nil {
		if !strings.Contains(err.Error(), "missing port in address") {
			return a, err
		}
		host = net.JoinHostPort(host, "514")
	}
	return logAddress{network: strings.TrimPrefix(u.Scheme, "tcp+"), host: host}, nil
}

// syslogFacilities are numbered in this order (RFC 5424, section 6.2.1).
var syslogFacilities = []string{
	"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
	"", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
}

func syslogFacility(name string) (int, error) {
	if name == "" {
		name = "daemon"
	}
	n := slices.Index(syslogFacilities, name)
	if n < 0 {
		var err error
		if n, err = strconv.Atoi(name); err != nil || n < 0 || n >= len(syslogFacilities) {
			return 0, worded(errdefs.ErrInvalidArgument, "invalid syslog facility")
		}
	}
	return n << 3, nil
}

func (o *Options) syslogOption(k, v string) error {
	switch k {
	case "syslog-address", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify":
	case "syslog-facility":
		_, err := syslogFacility(v)
		return err
	case "syslog-format":
		if v != "" && v != "rfc3164" && v != "rfc5424" && v != "rfc5424micro" {
			return worded(errdefs.ErrInvalidArgument, "Invalid syslog format")
		}
	default:
		return o.unknownLogOption(k, v)
	}
	return nil
}

// fluentdAddress parses fluentd-address.
func fluentdAddress(address string) (a logAddress, err error) {
	if !strings.Contains(address, "://") {
		address = "tcp://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return a, err
	}
	switch u.Scheme {
	case "unix":
		if strings.TrimLeft(u.Path, "/") == "" {
			return a, errors.New("path is empty")
		}
		return logAddress{network: "unix", path: u.Path}, nil
	case "tcp", "tls":
	default:
		return a, fmt.Errorf("unsupported scheme: '%s'", u.Scheme)
	}
	if u.Path != "" {
		return a, errors.New("should not contain a path element")
	}
	host, port := cmp.Or(u.Hostname(), "127.0.0.1"), cmp.Or(u.Port(), "24224")
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return a, fmt.Errorf("invalid port: %w", err)
	}
	return logAddress{network: u.Scheme, host: net.JoinHostPort(host, port)}, nil
}

// fluentdOptions are those of fluentd that have a meaning.
type fluentdOptions struct {
	async, precise, ack    bool
	buffer                 int64
	retryWait, write, read time.Duration
	retries                int
}

func (o *Options) fluentdOption(k, v string) error {
	if k == "fluentd-address" {
		return nil
	}
	return new(fluentdOptions).set(o, k, v)
}

func (f *fluentdOptions) set(o *Options, k, v string) (err error) {
	switch k {
	case "fluentd-async", "fluentd-request-ack", "fluentd-sub-second-precision", "fluentd-async-reconnect-interval",
		"fluentd-buffer-limit", "fluentd-retry-wait", "fluentd-max-retries", "fluentd-write-timeout", "fluentd-read-timeout":
	default:
		return o.unknownLogOption(k, v)
	}
	if v == "" {
		return nil
	}
	switch k {
	case "fluentd-async":
		f.async, err = strconv.ParseBool(v)
	case "fluentd-request-ack":
		f.ack, err = strconv.ParseBool(v)
	case "fluentd-sub-second-precision":
		f.precise, err = strconv.ParseBool(v)
	case "fluentd-buffer-limit":
		f.buffer, err = units.RAMInBytes(v)
	case "fluentd-retry-wait":
		f.retryWait, err = time.ParseDuration(v)
	case "fluentd-max-retries":
		var n uint64
		if n, err = strconv.ParseUint(v, 10, 32); err == nil && n > math.MaxInt32 {
			err = errors.New("invalid fluentd-max-retries: value out of range")
		}
		f.retries = int(n)
	case "fluentd-async-reconnect-interval":
		err = checkReconnectInterval(v)
	case "fluentd-write-timeout":
		f.write, err = logTimeout(k, v)
	case "fluentd-read-timeout":
		f.read, err = logTimeout(k, v)
	}
	return invalidLog(err)
}

// checkReconnectInterval looks at the option that makes dockerd connect anew from time to time, so that it notices other
// addresses of a name. Here names are looked up when the container starts.
func checkReconnectInterval(v string) error {
	const key, least, most = "fluentd-async-reconnect-interval", 100 * time.Millisecond, 10 * time.Second
	d, err := time.ParseDuration(v)
	if err != nil {
		return fmt.Errorf("invalid value for %s: %w", key, err)
	}
	if d != 0 && (d < least || d > most) {
		return fmt.Errorf("invalid value for %s: value (%q) must be between %s and %s", key, d, least, most)
	}
	return nil
}

func logTimeout(k, v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, fmt.Errorf("invalid value for %s: value must be a duration: %w", k, err)
	}
	if d < 0 {
		return 0, fmt.Errorf("invalid value for %s: value must be a duration that is non-negative", k)
	}
	return d, nil
}

// gelfAddress parses gelf-address.
func gelfAddress(address string) (a logAddress, err error) {
	if address == "" {
		return a, errors.New("gelf-address is a required parameter")
	}
	u, err := url.Parse(address)
	if err != nil {
		return a, err
	}
	if u.Scheme != "udp" && u.Scheme != "tcp" {
		return a, errors.New("gelf: endpoint needs to be TCP or UDP")
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return a, errors.New("gelf: please provide gelf-address as proto://host:port")
	}
	return logAddress{network: u.Scheme, host: u.Host}, nil
}

func (o *Options) gelfOption(k, v string) error {
	a, err := gelfAddress(o.LogOptions["gelf-address"])
	if err != nil {
		return invalidLog(err)
	}
	unknown := worded(errdefs.ErrInvalidArgument, "unknown value %q for log opt %q for gelf log driver", v, k)
	switch k {
	case "gelf-address":
	case "gelf-compression-level", "gelf-compression-type":
		if a.network != "udp" {
			return worded(errdefs.ErrInvalidArgument, "compression is only supported on UDP")
		}
		if k == "gelf-compression-type" {
			if !slices.Contains([]string{"gzip", "zlib", "none"}, v) {
				return unknown
			}
			return nil
		}
		if n, err := strconv.Atoi(v); err != nil || n < flate.DefaultCompression || n > flate.BestCompression {
			return unknown
		}
	case "gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay":
		if a.network != "tcp" {
			return worded(errdefs.ErrInvalidArgument, "%q is only valid for TCP", k)
		}
		if n, err := strconv.Atoi(v); err != nil || n < 0 {
			return worded(errdefs.ErrInvalidArgument, "%q must be a positive integer", k)
		}
	default:
		return o.unknownLogOption(k, v)
	}
	return nil
}
