package runner

import (
	"strings"
	"testing"
)

func TestGPUDevices(t *testing.T) {
	gpu := [][]string{{"gpu"}}
	for _, c := range []struct {
		name    string
		request GPURequest
		want    string // names, or an error
	}{
		{"all", GPURequest{Count: -1, Capabilities: gpu}, "nvidia.com/gpu=all"},
		{"some", GPURequest{Driver: "nvidia", Count: 2, Capabilities: [][]string{{"compute", "gpu"}}}, "nvidia.com/gpu=0 nvidia.com/gpu=1"},
		{"by ID", GPURequest{DeviceIDs: []string{"GPU-1", "0:1"}, Capabilities: gpu}, "nvidia.com/gpu=GPU-1 nvidia.com/gpu=0:1"},
		{"another vendor", GPURequest{Driver: "amd", Count: 1, Capabilities: gpu}, "amd.com/gpu=0"},
		{"too many", GPURequest{Count: 1 << 40, Capabilities: gpu}, "a request for 1099511627776 GPUs: more than 1024 are not there"},
		{"none", GPURequest{Capabilities: gpu}, ""},
		{"unknown driver", GPURequest{Driver: "x", Count: 1, Capabilities: gpu}, `could not select device driver "x" with capabilities: [[gpu]]`},
		{"no GPU", GPURequest{Count: 1, Capabilities: [][]string{{"tpu"}}}, `could not select device driver "" with capabilities: [[tpu]]`},
		{"both", GPURequest{Count: 1, DeviceIDs: []string{"1"}, Capabilities: gpu}, "cannot set both Count and DeviceIDs on device request"},
	} {
		names, err := c.request.Devices()
		got := strings.Join(names, " ")
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
