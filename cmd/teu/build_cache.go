//go:build !front && !porter

package main

import (
	"fmt"
	"strings"

	"github.com/teu-dev/teu/build"
)

// parseCache parses --cache-from and --cache-to as buildx does: TYPE's settings separated by commas, or
// only the reference of an image.
func parseCache(flag string, list []string) ([]build.CacheRef, error) {
	var refs []build.CacheRef
	for _, s := range list {
		if !strings.Contains(s, "=") {
			for ref := range strings.SplitSeq(s, ",") {
				refs = append(refs, build.CacheRef{Type: "registry", Args: map[string]string{"ref": ref}})
			}
			continue
		}
		// Those that say how other tools make things which are always so here are taken and not looked at.
		v, err := fields(flag, s, "type", "ref", "src", "dest", "mode", "compression", "ignore-error", "mounts",
			"registry.insecure", "tag", "digest", "compression-level", "force-compression", "oci-mediatypes", "image-manifest")
		if err != nil {
			return nil, err
		}
		if v["type"] == "" {
			return nil, fmt.Errorf("%s %s: no type", flag, s)
		}
		refs = append(refs, build.CacheRef{Type: v["type"], Args: v})
	}
	return refs, nil
}
