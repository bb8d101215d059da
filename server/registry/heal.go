package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// healed adds to the report how the healing of b went. What could not be healed does not
// keep the others from it.
func (v *verification) healed(ctx context.Context, b *Bad, err error) error {
	if err != nil {
		b.NotHealed = err.Error()
		return ctx.Err()
	}
	b.Healed = true
	v.report.Healed++
	return nil
}

// healBlob gets a blob from a repository of the source that has it, into all that had it here.
func (v *verification) healBlob(ctx context.Context, d digest.Digest, repos []string) error {
	im := newImporter(v.s)
	var errs []error
	var missing []string
	for _, repo := range repos {
		up, err := v.how.Heal.Open(repo)
		var desc ocispec.Descriptor
		if err == nil {
			desc, err = up.ResolveBlob(ctx, d)
		}
		if err == nil {
			err = im.blob(ctx, repo, up, desc)
		}
		if err != nil {
			missing, errs = append(missing, repo), append(errs, err)
		}
	}
	for i, repo := range missing {
		if v.s.MountBlob(ctx, repo, "", d) == nil { // another repository's copy will do
			errs[i] = nil
			continue
		}
		errs[i] = fmt.Errorf("%s: %w", repo, errs[i])
	}
	return errors.Join(errs...)
}

// healManifest gets a manifest, and what it leads to, from the source.
func (v *verification) healManifest(ctx context.Context, repo string, d digest.Digest, tags []string) error {
	up, err := v.how.Heal.Open(repo)
	if err != nil {
		return err
	}
	desc, err := up.Resolve(ctx, d.String())
	if err != nil {
		return err
	}
	im := newImporter(v.s)
	return im.manifest(ctx, repo, up, desc, tags, 0)
}
