package build

import (
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/dockerfile"
)

// annotations are the annotations of an image, by where they go.
type annotations struct {
	list []annotation
}

type annotation struct {
	level    string // "manifest", "manifest-descriptor", "index" or "index-descriptor"
	platform string // "": of every platform
	name     string
	value    string
}

// parseAnnotations takes keys as buildx does: [LEVEL[PLATFORM],...:]NAME, for manifests if no level
// is given.
func parseAnnotations(given map[string]string) (annotations, error) {
	var a annotations
	for _, key := range slices.Sorted(maps.Keys(given)) {
		levels, name, ok := strings.Cut(key, ":")
		if !ok || !areLevels(levels) {
			levels, name = "manifest", key
		}
		if name == "" {
			return a, invalidf("annotation %q has no name", key)
		}
		for level := range strings.SplitSeq(levels, ",") {
			level, platform, _ := strings.Cut(strings.TrimSuffix(level, "]"), "[")
			switch level {
			case "manifest", "manifest-descriptor", "index", "index-descriptor":
			default:
				return a, invalidf("annotation %s: %q is none of manifest, manifest-descriptor, index and index-descriptor", key, level)
			}
			if platform != "" && strings.HasPrefix(level, "index") {
				return a, invalidf("annotation %s: an index is of all platforms", key)
			}
			if platform != "" {
				p, err := platforms.Parse(platform)
				if err != nil {
					return a, invalidf("annotation %s: %v", key, err)
				}
				platform = platformName(platforms.Normalize(p))
			}
			a.list = append(a.list, annotation{level: level, platform: platform, name: name, value: given[key]})
		}
	}
	return a, nil
}

// areLevels says whether s can be meant as levels: no name of an annotation looks like that.
func areLevels(s string) bool {
	for part := range strings.SplitSeq(s, ",") {
		level, rest, open := strings.Cut(part, "[")
		if level == "" || strings.Trim(level, "abcdefghijklmnopqrstuvwxyz-") != "" || open != strings.HasSuffix(rest, "]") {
			return false
		}
	}
	return true
}

// needIndex says whether they are of an index, which an image of one platform is given for them: the
// provenance that buildx adds unasked makes one there.
func (a annotations) needIndex() bool {
	return slices.ContainsFunc(a.list, func(one annotation) bool { return strings.HasPrefix(one.level, "index") })
}

// match makes sure that each is of an image that there is.
func (a annotations) match(images []dockerfile.Image) error {
	for _, one := range a.list {
		if one.platform != "" && !slices.ContainsFunc(images, func(img dockerfile.Image) bool { return one.of(img.Platform) }) {
			return invalidf("annotation %s is of %s, which is not built", one.name, one.platform)
		}
	}
	return nil
}

// of says whether it is of the image for p.
func (one annotation) of(p ocispec.Platform) bool {
	return one.platform == "" || one.platform == platformName(platforms.Normalize(p))
}

// at returns the annotations of a level for a platform; nil if there are none.
func (a annotations) at(level string, p ocispec.Platform) map[string]string {
	var m map[string]string
	for _, one := range a.list {
		if one.level != level || !one.of(p) {
			continue
		}
		if m == nil {
			m = map[string]string{}
		}
		m[one.name] = one.value
	}
	return m
}
