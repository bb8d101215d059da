package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/teu-dev/teu/runner"
)

// gpuFlag is the value of --gpus, a line of CSV (docker/cli opts, GpuOpts): all, a number, or NAME=VALUE.
type gpuFlag []runner.GPURequest

func (g *gpuFlag) String() string {
	if len(*g) == 0 {
		return ""
	}
	return fmt.Sprint([]runner.GPURequest(*g))
}

// Type is the word of the help for the value.
func (g *gpuFlag) Type() string { return "gpu-request" }

func (g *gpuFlag) Set(text string) error {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return err
	}
	r := runner.GPURequest{Capabilities: [][]string{{"gpu"}}}
	seen := map[string]bool{}
	for _, field := range fields {
		key, value, valued := strings.Cut(field, "=")
		if !valued {
			key, value = "count", key
		}
		if seen[key] {
			return fmt.Errorf("gpu request key '%s' can be specified only once", key)
		}
		seen[key] = true
		switch key {
		case "driver":
			r.Driver = value
		case "count":
			r.Count, err = gpuCount(value)
		case "device":
			r.DeviceIDs = strings.Split(value, ",")
		case "capabilities":
			r.Capabilities = [][]string{append(strings.Split(value, ","), "gpu")}
		case "options":
			_, err = csv.NewReader(strings.NewReader(value)).Read()
		default:
			err = fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
		if err != nil {
			return err
		}
	}
	if !seen["count"] && r.DeviceIDs == nil {
		r.Count = 1
	}
	*g = append(*g, r)
	return nil
}

func gpuCount(text string) (int, error) {
	if text == "all" {
		return -1, nil
	}
	n, err := strconv.Atoi(text)
	if wrong := (*strconv.NumError)(nil); errors.As(err, &wrong) {
		return 0, fmt.Errorf(`invalid count (%s): value must be either "all" or an integer: %w`, text, wrong.Err)
	}
	return n, nil
}
