package runner

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"github.com/teu-dev/teu/runner/spec"
)

// SetLog chooses the log driver and its options, in docker's words: json-file and local,
// which are the same here, or none.
func (o *Options) SetLog(driver string, options map[string]string) error {
	switch driver {
	case "", "json-file", "local":
		o.LogDriver = "json-file"
	case "none":
		o.LogDriver = "none"
	case "awslogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog":
		return worded(errdefs.ErrInvalidArgument, "logger: the log driver %s is not supported by teu: with json-file, local or none a process that reads `teu logs -f` can send the lines on", driver)
	default:
		return worded(errdefs.ErrInvalidArgument, "logger: no log driver named '%s' is registered", driver)
	}
	if driver == "local" {
		o.LogDriver = driver
	}
	for k, v := range options {
		if err := o.logOption(k, v); err != nil {
			return err
		}
	}
	if len(options) > 0 {
		o.LogOptions = options
	}
	return nil
}

func (o *Options) logOption(k, v string) error {
	switch k {
	case "max-size":
		n, err := units.RAMInBytes(v)
		if err != nil || n <= 0 && v != "-1" {
			return worded(errdefs.ErrInvalidArgument, "invalid value for max-size: %q", v)
		}
		o.LogSize = n
	case "max-file":
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return worded(errdefs.ErrInvalidArgument, "max-file cannot be less than 1")
		}
		o.LogFiles = n
	case "compress":
		if _, err := strconv.ParseBool(v); err != nil {
			return worded(errdefs.ErrInvalidArgument, "invalid value for compress: %q", v)
		}
	case "labels-regex", "env-regex":
		if _, err := regexp.Compile(v); err != nil {
			return fmt.Errorf("log option %s: %w: %w", k, err, errdefs.ErrInvalidArgument)
		}
	case "mode", "max-buffer-size", "labels", "env", "tag":
	default:
		return worded(errdefs.ErrInvalidArgument, "unknown log opt '%s' for %s log driver", k, o.LogDriver)
	}
	return nil
}

// compressLog says whether rotated files are compressed, which they are if nobody objects.
func (o *Options) compressLog() bool {
	compress, err := strconv.ParseBool(o.LogOptions["compress"])
	return err != nil || compress
}

// logDetails are the labels and variables that the log options name, as `logs --details`
// shows them: "a=b,c=d ".
func (c *Container) logDetails() string {
	var list []string
	add := func(names, pattern string, has func(yield func(k, v string))) {
		wanted := strings.Split(names, ",")
		match := func(string) bool { return false }
		if re, err := regexp.Compile(pattern); err == nil && pattern != "" {
			match = re.MatchString
		}
		has(func(k, v string) {
			if slices.Contains(wanted, k) || match(k) {
				list = append(list, k+"="+v)
			}
		})
	}
	o := c.Options.LogOptions
	add(o["labels"], o["labels-regex"], func(yield func(k, v string)) {
		for k, v := range c.Labels() {
			yield(k, v)
		}
	})
	add(o["env"], o["env-regex"], func(yield func(k, v string)) {
		for _, kv := range spec.MergeEnv(c.Options.Env, c.ImageConfig.Env) {
			k, v, _ := strings.Cut(kv, "=")
			yield(k, v)
		}
	})
	slices.Sort(list)
	return strings.Join(list, ",") + " "
}

// LogConfig is what inspect shows of the log options.
func (o *Options) LogConfig() map[string]string {
	if o.LogOptions == nil {
		return map[string]string{}
	}
	return o.LogOptions
}
