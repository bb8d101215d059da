package content

import (
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Host returns the platform of this machine, normalised.
func Host() ocispec.Platform {
	p := ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	if p.Architecture == "arm" {
		var u unix.Utsname
		if unix.Uname(&u) == nil && strings.HasPrefix(unix.ByteSliceToString(u.Machine[:]), "armv6") {
			p.Variant = "v6"
		}
	}
	return normalizePlatform(p)
}

// normalizePlatform spells p as the indexes of most images do: arm64 without v8 and amd64 without v1,
// the arm everybody means as v7, and the kernel's names as Go's.
func normalizePlatform(p ocispec.Platform) ocispec.Platform {
	p.OS = strings.ToLower(p.OS)
	p.Architecture, p.Variant = strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "i386", "i686":
		p.Architecture, p.Variant = "386", ""
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	if p.Variant != "" && p.Variant[0] >= '0' && p.Variant[0] <= '9' {
		p.Variant = "v" + p.Variant
	}
	switch p.Architecture + "/" + p.Variant {
	case "amd64/v1", "arm64/v8", "arm64/v8.0":
		p.Variant = ""
	case "arm/":
		p.Variant = "v7"
	}
	return p
}

// MatchPlatform says how well an image for have suits want: 0 not at all, more is better.
// A processor of a later variant runs what was made for an earlier one. Of an operating system the
// features of have must be among those of want, and the version counts where it does for containers.
func MatchPlatform(want, have ocispec.Platform) int {
	want, have = normalizePlatform(want), normalizePlatform(have)
	if want.OS != have.OS || want.Architecture != have.Architecture || !hasFeatures(want, have) {
		return 0
	}
	if want.OS == "windows" && !runsWindows(want.OSVersion, have.OSVersion) {
		return 0
	}
	wantLevel, ok := level(want)
	haveLevel, known := level(have)
	switch {
	case want.Variant == have.Variant:
		return 1 + haveLevel
	case ok && known && haveLevel <= wantLevel:
		return 1 + haveLevel
	}
	return 0
}

// hasFeatures says whether the features that have asks for are among those of want. win32k never
// counts, as in containerd.
func hasFeatures(want, have ocispec.Platform) bool {
	for _, f := range have.OSFeatures {
		if f != "win32k" && !slices.Contains(want.OSFeatures, f) {
			return false
		}
	}
	return true
}

// runsWindows says whether a host of one version of Windows runs containers of another: both are
// major.minor.build.revision. Without a version to compare everything does. From Server 2022 on a host
// runs what was made since the long-term release before its own, earlier ones only their own build.
// Microsoft, "Windows container version compatibility"; containerd/platforms does the same.
func runsWindows(host, image string) bool {
	h, ok := parseWindows(host)
	if !ok || image == "" {
		return true
	}
	c, _ := parseWindows(image)
	if h.major != c.major || h.minor != c.minor {
		return false
	}
	const server2022 = 20348 // that of the release before Server 2025 as well
	if h.build < server2022 {
		return h.build == c.build
	}
	return server2022 <= c.build && c.build <= h.build
}

type windowsVersion struct{ major, minor, build uint64 }

// parseWindows reads the first three numbers of a version; ok is false if there are not as many.
func parseWindows(version string) (v windowsVersion, ok bool) {
	parts := strings.Split(version, ".")
	if len(parts) < 3 {
		return v, false
	}
	for i, field := range []struct {
		to   *uint64
		bits int
	}{{&v.major, 8}, {&v.minor, 8}, {&v.build, 16}} {
		n, err := strconv.ParseUint(parts[i], 10, field.bits)
		if err != nil {
			return windowsVersion{}, false
		}
		*field.to = n
	}
	return v, v != windowsVersion{}
}

// level orders the variants of an architecture: v8.1 is 81.
func level(p ocispec.Platform) (level int, known bool) {
	variant := p.Variant
	switch p.Architecture {
	case "amd64":
		if variant == "" {
			variant = "v1"
		}
	case "arm64":
		if variant == "" {
			variant = "v8"
		}
	case "arm":
	default:
		return 0, false
	}
	major, minor, _ := strings.Cut(strings.TrimPrefix(variant, "v"), ".")
	if minor == "" {
		minor = "0"
	}
	hi, err := strconv.ParseUint(major, 10, 8)
	lo, err2 := strconv.ParseUint(minor, 10, 8)
	if err != nil || err2 != nil || lo > 9 {
		return 0, false
	}
	return int(hi*10 + lo), true
}

// PlatformString is how users write p: os/architecture/variant, or os(version)/architecture.
func PlatformString(p ocispec.Platform) string {
	s := p.OS
	if p.OSVersion != "" {
		s += "(" + p.OSVersion + ")"
	}
	s += "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// IsAttestation says whether the entry d of an index is not an image but a statement about one, as
// BuildKit adds them (BuildKit docs, attestations/attestation-storage.md).
func IsAttestation(d ocispec.Descriptor) bool {
	return d.Annotations[annotationReferenceType] == "attestation-manifest" ||
		d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// AboutOf returns the image that the attestation d of an index is about; "" if it does not say.
func AboutOf(d ocispec.Descriptor) digest.Digest {
	return digest.Digest(d.Annotations[annotationReferenceDigest])
}

const (
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)
