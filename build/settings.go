package build

import (
	"encoding/csv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/teu-dev/teu/build/provenance"
)

// insecureSetting says of an output or a cache that its registry needs no verified TLS.
const insecureSetting = "registry.insecure"

// SetImage takes what the settings of an output say of the image itself, by the names of BuildKit's
// exporters. Those it does not know are not for it.
func (o *Options) SetImage(out *Output, v map[string]string) error {
	form := &Form{FileStatements: Yes(v["attestation-inline"]), ByDigest: Yes(v["push-by-digest"])}
	out.Form, out.Insecure = form, Yes(v[insecureSetting])
	if artifact, ok := v["oci-artifact"]; ok {
		form.StatementsAsImage = !Yes(artifact)
	}
	switch c := v["compression"]; c {
	case "":
	case "gzip", "zstd", "uncompressed":
		form.Compression = c
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
	form.Rewritten, form.Recompress = Yes(v["rewrite-timestamp"]), Yes(v["force-compression"])
	if oci, ok := v["oci-mediatypes"]; ok {
		form.DockerTypes = !Yes(oci)
	}
	for name, value := range v {
		if key, ok := strings.CutPrefix(name, "annotation"); ok {
			// annotation.NAME, annotation-index.NAME, annotation-manifest[linux/amd64].NAME, annotation[linux/amd64].NAME
			level, key, found := strings.Cut(key, ".")
			if !found || key == "" {
				return invalidf("%q names no annotation", name)
			}
			if strings.HasPrefix(level, "[") {
				level = "manifest" + level
			}
			if level != "" {
				key = strings.TrimPrefix(level, "-") + ":" + key
			}
			if form.Annotations == nil {
				form.Annotations = map[string]string{}
			}
			form.Annotations[key] = value
		}
	}
	return nil
}

// StatementKind returns the kind of the statement that settings, NAME=VALUE,..., are about.
func StatementKind(settings string) (string, error) {
	parts, err := csv.NewReader(strings.NewReader(settings)).Read()
	if err != nil {
		return "", invalidf("%v", err)
	}
	for _, part := range parts {
		if name, kind, _ := strings.Cut(part, "="); strings.EqualFold(strings.TrimSpace(name), "type") && kind != "" {
			return kind, nil
		}
	}
	return "", invalidf("no type of statement; type=provenance is one")
}

// SetStatements takes what is to be stated about the result: settings by the kind of statement.
func (o *Options) SetStatements(settings map[string]string) (err error) {
	for kind, text := range settings {
		switch kind {
		case "provenance":
			if o.Provenance, err = provenance.Parse(text); err != nil {
				return err
			}
		case "sbom":
			if disabled(text) {
				continue
			}
			o.SBOM = &text
		default:
			return invalidf("attestation type %q is none of provenance and sbom", kind)
		}
	}
	return nil
}

// disabled says whether settings of a statement say that it is not wanted.
func disabled(settings string) bool {
	parts, _ := csv.NewReader(strings.NewReader(settings)).Read() // what is wrong is met again
	return slices.ContainsFunc(parts, func(part string) bool {
		name, value, _ := strings.Cut(part, "=")
		return name == "disabled" && Yes(value)
	})
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
