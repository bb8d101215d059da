package build

import (
	"strconv"
	"strings"
	"time"
)

// SetImage takes what the settings of an output say of the image itself, by the names of BuildKit's
// exporters. Those it does not know are not for it.
func (o *Options) SetImage(v map[string]string) error {
	if Yes(v["attestation-inline"]) {
		return invalidf("attestations are not made")
	}
	o.ByDigest = o.ByDigest || Yes(v["push-by-digest"])
	switch c := v["compression"]; c {
	case "":
	case "gzip", "zstd", "uncompressed":
		if o.Compression != "" && o.Compression != c {
			return invalidf("two outputs with different compressions")
		}
		o.Compression = c
	default:
		return invalidf("compression %q is none of gzip, zstd and uncompressed", c)
	}
	if epoch, ok := v["source-date-epoch"]; ok {
		e, err := parseEpoch(epoch)
		if err != nil {
			return err
		}
		o.Epoch = e
	}
	if level := v["compression-level"]; level != "" {
		if _, err := strconv.Atoi(level); err != nil {
			return invalidf("compression-level %q is no number", level)
		}
	}
	o.Rewritten = o.Rewritten || Yes(v["rewrite-timestamp"])
	o.Recompress = o.Recompress || Yes(v["force-compression"])
	if oci, ok := v["oci-mediatypes"]; ok {
		o.DockerTypes = !Yes(oci)
	}
	for name, value := range v {
		if key, ok := strings.CutPrefix(name, "annotation"); ok {
			// annotation.NAME, annotation-index.NAME, annotation-manifest[linux/amd64].NAME
			level, key, found := strings.Cut(key, ".")
			if !found || key == "" {
				return invalidf("%q names no annotation", name)
			}
			if level != "" {
				key = strings.TrimPrefix(level, "-") + ":" + key
			}
			if o.Annotations == nil {
				o.Annotations = map[string]string{}
			}
			o.Annotations[key] = value
		}
	}
	return nil
}

// parseEpoch parses seconds since 1970; "" stands for no epoch, whatever the Dockerfile says.
func parseEpoch(text string) (*Epoch, error) {
	if text == "" {
		return &Epoch{}, nil
	}
	sec, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, invalidf("source-date-epoch %q is no number of seconds", text)
	}
	t := time.Unix(sec, 0).UTC()
	return &Epoch{Time: &t}, nil
}

// Yes says whether the value of a setting means yes.
func Yes(value string) bool {
	v, err := strconv.ParseBool(value)
	return err == nil && v
}
