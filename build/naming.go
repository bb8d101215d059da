package build

import (
	"maps"
	"reflect"
	"slices"

	"github.com/distribution/reference"
)

// A naming is what the image of a build is called.
type naming struct {
	outputs [][]reference.Named // by output
	push    []pushing           // in which repositories
	// The forms that the image is written in, and by output which of them. The first is that of all outputs.
	forms  []Form
	formOf []int
	// Registries that an output calls insecure.
	insecure []string
}

// A pushing is a name that a form of the image is pushed under.
type pushing struct {
	name reference.Named
	form int
}

// nameOutputs parses the names that o gives. As with buildx, those of the build are those of every output.
func nameOutputs(o Options) (naming, error) {
	var n naming
	tags, err := canonicalNames(o.Tags)
	if err != nil {
		return n, err
	}
	n.forms = []Form{o.Form}
	if o.Push && len(tags) == 0 {
		return n, invalidf("a push needs a tag")
	}
	for _, out := range outputsOf(o) {
		form := n.form(o, out)
		n.formOf = append(n.formOf, form)
		names := tags
		if len(tags) == 0 {
			if names, err = canonicalNames(out.Names); err != nil {
				return n, err
			}
		}
		n.outputs = append(n.outputs, names)
		if !out.Push && !(o.Push && out.Type == "image") {
			continue
		}
		if len(names) == 0 {
			return n, invalidf("a push needs a tag")
		}
		n.pushAs(names, form)
		if out.Insecure {
			for _, name := range names {
				n.insecure = append(n.insecure, reference.Domain(name))
			}
		}
	}
	if o.Push {
		n.pushAs(tags, 0) // unless an image that stays here goes there too
	}
	return n, nil
}

// pushAs has a form pushed under names that nothing is pushed under.
func (n *naming) pushAs(names []reference.Named, form int) {
	for _, name := range names {
		same := func(other pushing) bool { return other.name.String() == name.String() }
		if !slices.ContainsFunc(n.push, same) {
			n.push = append(n.push, pushing{name, form})
		}
	}
}

// form returns which of the forms that of an output is.
func (n *naming) form(o Options, out Output) int {
	if out.Form == nil {
		return 0
	}
	form := *out.Form
	form.Annotations = maps.Clone(o.Annotations)
	if form.Annotations == nil {
		form.Annotations = map[string]string{}
	}
	maps.Copy(form.Annotations, out.Form.Annotations)
	same := func(other Form) bool {
		a, b := other, form
		a.Annotations, b.Annotations = nil, nil
		return reflect.DeepEqual(a, b) && maps.Equal(other.Annotations, form.Annotations)
	}
	if i := slices.IndexFunc(n.forms, same); i >= 0 {
		return i
	}
	n.forms = append(n.forms, form)
	return len(n.forms) - 1
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
