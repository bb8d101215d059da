package runner

import (
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
)

// A GPURequest is what docker's --gpus asks for, and what clients of its API ask for as a device request: devices by
// their IDs, or else so many of them, all for a negative count.
type GPURequest struct {
	Driver       string // the vendor: nvidia, also when it is empty, or amd
	Count        int
	DeviceIDs    []string
	Capabilities [][]string // one of the lists has to be there; it has "gpu" in it
}

const maxGPUs = 1024 // of a request; nobody has as many

// Devices are the names by which the vendor's files of the Container Device Interface know what is asked for, such as
// nvidia.com/gpu=all. What is no request for GPUs is an errdefs.ErrInvalidArgument in docker's words.
func (r GPURequest) Devices() (names []string, err error) {
	kinds := map[string]string{"": "nvidia.com/gpu", "nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
	kind, known := kinds[r.Driver]
	isGPU := slices.ContainsFunc(r.Capabilities, func(all []string) bool { return slices.Contains(all, "gpu") })
	if !known || !isGPU {
		return nil, worded(errdefs.ErrInvalidArgument, "could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities)
	}
	ids := r.DeviceIDs
	switch {
	case len(ids) > 0 && r.Count != 0:
		return nil, worded(errdefs.ErrInvalidArgument, "cannot set both Count and DeviceIDs on device request")
	case r.Count > maxGPUs:
		return nil, worded(errdefs.ErrInvalidArgument, "a request for %d GPUs: more than %d are not there", r.Count, maxGPUs)
	case r.Count < 0:
		ids = []string{"all"}
	}
	for n := range max(r.Count, 0) {
		ids = append(ids, strconv.Itoa(n))
	}
	for _, id := range ids {
		names = append(names, kind+"="+id)
	}
	return names, nil
}
