package bundle

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What features says of mounts and annotations is so: callers decide by it what they let users pass.
func TestFeatures(t *testing.T) {
	f := Features()
	if !slices.Contains(f.PotentiallyUnsafeConfigAnnotations, "org.systemd.property.") {
		t.Errorf("annotations %q", f.PotentiallyUnsafeConfigAnnotations)
	}
	if !slices.IsSorted(f.MountOptions) {
		t.Error("the options of mounts are in no order")
	}
	p := newPlace(t)
	if err := p.tryOptions(t, f.MountOptions); err != nil {
		t.Error(err)
	}
	if err := p.tryOptions(t, []string{"bogus"}); err == nil {
		t.Error("bogus is an option")
	}
}

// tryOptions mounts a tmpfs with each option, but for those that are for bind mounts.
func (p *place) tryOptions(t *testing.T, options []string) error {
	t.Helper()
	c, err := p.create(t, "a", ":", func(s *specs.Spec) {
		for _, opt := range options {
			if slices.Contains([]string{"bind", "rbind", "idmap", "ridmap", "remount"}, opt) {
				continue
			}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m/" + opt, Type: "tmpfs", Source: "tmpfs", Options: []string{opt}})
		}
	})
	if err == nil {
		_, err = c.Delete(t.Context(), DeleteOptions{Force: true})
	}
	return err
}
