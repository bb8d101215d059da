package build

import (
	"slices"

	"github.com/distribution/reference"
)

// A naming is what the image of a build is called.
type naming struct {
	outputs [][]reference.Named // by output
	push    []reference.Named   // what it is pushed under
}

// nameOutputs parses the names that o gives. As with buildx, those of the build are those of every output.
func nameOutputs(o Options) (naming, error) {
	var n naming
	tags, err := canonicalNames(o.Tags)
	if err != nil {
		return n, err
	}
	if o.Push {
		if len(tags) == 0 {
			return n, invalidf("a push needs a tag")
		}
		n.push = tags
	}
	for _, out := range outputsOf(o) {
		names := tags
		if len(tags) == 0 {
			if names, err = canonicalNames(out.Names); err != nil {
				return n, err
			}
		}
		n.outputs = append(n.outputs, names)
		if !out.Push {
			continue
		}
		if len(names) == 0 {
			return n, invalidf("a push needs a tag")
		}
		for _, name := range names {
			same := func(other reference.Named) bool { return other.String() == name.String() }
			if !slices.ContainsFunc(n.push, same) {
				n.push = append(n.push, name)
			}
		}
	}
	return n, nil
}

// outputsOf are the outputs of a build: without any, the local store.
func outputsOf(o Options) []Output {
	if len(o.Outputs) == 0 {
		return []Output{{Type: "image"}}
	}
	return o.Outputs
}

func canonicalNames(tags []string) ([]reference.Named, error) {
	var names []reference.Named
	for _, tag := range tags {
		name, err := reference.ParseNormalizedNamed(tag)
		if err != nil {
			return nil, invalidf("tag %q: %v", tag, err)
		}
		if _, digested := name.(reference.Digested); digested {
			return nil, invalidf("tag %q: a digest cannot be chosen", tag)
		}
		names = append(names, reference.TagNameOnly(name))
	}
	return names, nil
}
