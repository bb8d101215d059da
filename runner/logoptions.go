package runner

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"github.com/teu-dev/teu/runner/spec"
)

// SetLog chooses the log driver and its options, in docker's words, and says what is wrong with them as dockerd
// does when a container is created (moby, daemon/logger: ValidateLogOpts and those of the drivers). json-file and local
// are the same here.
func (o *Options) SetLog(driver string, options map[string]string) error {
	o.LogDriver, o.LogOptions = cmp.Or(driver, "json-file"), nil
	if len(options) > 0 {
		o.LogOptions = options
	}
	if o.LogDriver == "none" {
		return nil
	}
	if err := checkLogMode(options); err != nil {
		return err
	}
	check := o.logOptionCheck()
	if check == nil && slices.Contains([]string{"awslogs", "gcplogs", "splunk"}, o.LogDriver) {
		return worded(errdefs.ErrInvalidArgument, "logger: the log driver %s is not supported by teu: fluentd, gelf, journald and syslog send lines to what can send them on", o.LogDriver)
	}
	if check == nil {
		return worded(errdefs.ErrInvalidArgument, "logger: no log driver named '%s' is registered", o.LogDriver)
	}
	for _, k := range slices.Sorted(maps.Keys(options)) {
		v := options[k]
		var err error
		switch name, cached := strings.CutPrefix(k, "cache-"); {
		case k == "mode" || k == "max-buffer-size":
		case cached && (name == "disabled" || isFileOption(name)):
			err = o.cacheOption(name, v)
		case isCommonOption(k):
			err = checkCommonOption(k, v)
		default:
			err = check(k, v)
		}
		if err != nil {
			return err
		}
	}
	return o.checkLogAddress()
}

// LogDrivers are the names of the drivers, in order, without none.
func LogDrivers() []string {
	return []string{"fluentd", "gelf", "journald", "json-file", "local", "syslog"}
}

// logOptionCheck looks at an option that only this driver has; nil if there is no such driver.
func (o *Options) logOptionCheck() func(k, v string) error {
	switch o.LogDriver {
	case "json-file", "local":
		return o.fileOption
	case "syslog":
		return o.syslogOption
	case "journald":
		return o.unknownLogOption
	case "fluentd":
		return o.fluentdOption
	case "gelf":
		return o.gelfOption
	}
	return nil
}

func (o *Options) unknownLogOption(k, _ string) error {
	format := "unknown log opt '%s' for %s log driver"
	if o.LogDriver == "gelf" {
		format = "unknown log opt %q for %s log driver"
	}
	return worded(errdefs.ErrInvalidArgument, format, k, o.LogDriver)
}

func checkLogMode(options map[string]string) error {
	mode := options["mode"]
	if mode != "" && mode != "blocking" && mode != "non-blocking" {
		return worded(errdefs.ErrInvalidArgument, "logger: logging mode not supported: %s", mode)
	}
	if s, ok := options["max-buffer-size"]; ok {
		if mode != "non-blocking" {
			return worded(errdefs.ErrInvalidArgument, "logger: max-buffer-size option is only supported with 'mode=non-blocking'")
		}
		if _, err := units.RAMInBytes(s); err != nil {
			return worded(errdefs.ErrInvalidArgument, "error parsing option max-buffer-size: %v", err)
		}
	}
	return nil
}

func isCommonOption(k string) bool {
	return slices.Contains([]string{"labels", "labels-regex", "env", "env-regex", "tag"}, k)
}

func isFileOption(k string) bool {
	return slices.Contains([]string{"max-size", "max-file", "compress"}, k)
}

func checkCommonOption(k, v string) error {
	if strings.HasSuffix(k, "-regex") {
		if _, err := regexp.Compile(v); err != nil {
			return fmt.Errorf("log option %s: %w: %w", k, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// fileOption is an option of the file that the log is kept in.
func (o *Options) fileOption(k, v string) error {
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
	default:
		return o.unknownLogOption(k, v)
	}
	return nil
}

// cacheOption is an option of the file that `logs` reads when the lines are sent elsewhere. Drivers that
// write a file anyway have no use for it.
func (o *Options) cacheOption(k, v string) error {
	if k == "disabled" {
		if _, err := strconv.ParseBool(v); err != nil && v != "" {
			return worded(errdefs.ErrInvalidArgument, "invalid value for option cache-disabled: %s", v)
		}
		return nil
	}
	if !o.sendsLog() {
		return nil
	}
	return o.fileOption(k, v)
}

// sendsLog says whether lines are sent besides being written to a file.
func (o *Options) sendsLog() bool {
	switch o.LogDriver {
	case "", "json-file", "local", "none":
		return false
	}
	return true
}

// ReadsLog says whether the lines can be read here.
func (o *Options) ReadsLog() bool {
	disabled, _ := strconv.ParseBool(o.LogOptions["cache-disabled"])
	return o.LogDriver != "none" && !(o.sendsLog() && disabled)
}

// compressLog says whether rotated files are compressed, which they are if nobody objects.
func (o *Options) compressLog() bool {
	name := "compress"
	if o.sendsLog() {
		name = "cache-compress"
	}
	compress, err := strconv.ParseBool(o.LogOptions[name])
	return err != nil || compress
}

// logAttrs are the attributes of each line in the log's file as a JSON object, "" if it has none: what the log
// options name, and the tag if there is one.
func (c *Container) logAttrs() (string, error) {
	attrs := c.logAttributes(nil)
	if c.Options.LogOptions["tag"] != "" {
		tag, err := logTag(c)
		if err != nil {
			return "", fmt.Errorf("failed to initialize logging driver: %w", err)
		}
		attrs["tag"] = tag
	}
	if len(attrs) == 0 {
		return "", nil
	}
	b, err := json.Marshal(attrs)
	return string(b), err
}

// logAttributes are the labels and variables that the log options name, under the names that
// rename makes of theirs.
func (c *Container) logAttributes(rename func(string) string) map[string]string {
	found := map[string]string{}
	add := func(names, pattern string, all map[string]string) {
		wanted := strings.Split(names, ",")
		match := func(string) bool { return false }
		if re, err := regexp.Compile(pattern); err == nil && pattern != "" {
			match = re.MatchString
		}
		for _, k := range slices.Sorted(maps.Keys(all)) {
			if k == "" || !slices.Contains(wanted, k) && !match(k) {
				continue
			}
			name := k
			if rename != nil {
				name = rename(k)
			}
			found[name] = all[k]
		}
	}
	o := c.Options.LogOptions
	add(o["labels"], o["labels-regex"], c.Labels())
	env := map[string]string{}
	for _, kv := range spec.MergeEnv(c.Options.Env, c.ImageConfig.Env) {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	add(o["env"], o["env-regex"], env)
	return found
}

// LogConfig is what inspect shows of the log options.
func (o *Options) LogConfig() map[string]string {
	if o.LogOptions == nil {
		return map[string]string{}
	}
	return o.LogOptions
}
