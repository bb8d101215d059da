package content

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxIndex is the largest index.json that is read, in bytes.
const maxIndex = 8 << 20

// ReadIndex reads the index.json of the image layout in dir, which may be anybody's.
func ReadIndex(dir string) (index ocispec.Index, err error) {
	f, err := OpenRegular(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return index, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIndex+1))
	if err != nil {
		return index, err
	}
	if len(data) > maxIndex {
		return index, fmt.Errorf("%s has more than %d bytes: %w", f.Name(), maxIndex, errdefs.ErrResourceExhausted)
	}
	if err := Unmarshal(data, &index); err != nil {
		return index, fmt.Errorf("%s: %w: %w", f.Name(), err, errdefs.ErrInvalidArgument)
	}
	return index, nil
}
