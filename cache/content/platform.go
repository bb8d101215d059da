package content

import (
	"runtime"
	"strconv"
	"strings"

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
	return NormalizePlatform(p)
}

// NormalizePlatform spells p as the indexes of most images do: arm64 without v8 and amd64 without v1,
// the arm everybody means as v7, and the kernel's names as Go's.
func NormalizePlatform(p ocispec.Platform) ocispec.Platform {
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
// A processor of a later variant runs what was made for an earlier one.
func MatchPlatform(want, have ocispec.Platform) int {
	want, have = NormalizePlatform(want), NormalizePlatform(have)
	if want.OS != have.OS || want.Architecture != have.Architecture {
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

// PlatformString is how users write p: os/architecture/variant.
func PlatformString(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
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

const (
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)
