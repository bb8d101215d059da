package provenance

import (
	"encoding/csv"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/llbsolver/provenance/types"
)

// Options of a statement, by BuildKit's names.
type Options struct {
	Version      string // "v1" or "v0.2" of SLSA's provenance; "": v1
	Min          bool   // neither arguments nor steps: nothing that could be a secret of somebody
	BuilderID    string // a URL of who built
	Reproducible bool   // the user says that the build is
	InlineOnly   bool   // only in images of a registry or a store, in no file
	Filename     string // where the outputs are files; "": provenance.json
	Complete     bool   // it is an error if not all materials are known
}

// Parse reads the settings of a statement as clients write them: "mode=min,version=v0.2", or "" for none. nil
// stands for a statement that is not wanted.
func Parse(settings string) (*Options, error) {
	o := &Options{Version: string(types.ProvenanceSLSA1)}
	v, err := fields(settings)
	if err != nil {
		return nil, err
	}
	bools := map[string]*bool{"reproducible": &o.Reproducible, "inline-only": &o.InlineOnly, "complete-materials": &o.Complete}
	for _, f := range v {
		name, value := f[0], f[1]
		switch into := bools[name]; {
		case into != nil:
			if *into, err = strconv.ParseBool(value); err != nil {
				return nil, invalidf("%s=%s: it is neither true nor false", name, value)
			}
		case name == "disabled":
			if off, err := strconv.ParseBool(value); err != nil {
				return nil, invalidf("%s=%s: it is neither true nor false", name, value)
			} else if off {
				return nil, nil
			}
		case name == "mode":
			if !slices.Contains([]string{"min", "max", "full"}, value) {
				return nil, invalidf("mode %q is none of min and max", value)
			}
			o.Min = value == "min"
		case name == "version":
			if value != string(types.ProvenanceSLSA1) && value != string(types.ProvenanceSLSA02) {
				return nil, invalidf("version %q is none of v1 and v0.2", value)
			}
			o.Version = value
		case name == "builder-id":
			o.BuilderID = value
		case name == "filename":
			if value == "" || strings.ContainsAny(value, "/\x00") || value == "." || value == ".." {
				return nil, invalidf("filename %q is no name of a file", value)
			}
			o.Filename = value
		case name == "type", name == "capture-usage":
			// The first is what led here; what the steps used is not measured.
		default:
			return nil, invalidf("%q is no setting of a provenance", name)
		}
	}
	return o, nil
}

// fields parses NAME=VALUE,NAME, a line of CSV.
func fields(s string) ([][2]string, error) {
	if s == "" {
		return nil, nil
	}
	parts, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return nil, invalidf("%q: %v", s, err)
	}
	var list [][2]string
	for _, part := range parts {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			value = "true"
		}
		list = append(list, [2]string{strings.ToLower(strings.TrimSpace(name)), value})
	}
	return list, nil
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("provenance: %s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
