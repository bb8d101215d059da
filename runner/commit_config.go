package runner

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// fillConfig gives the config object that somebody sent with a commit what it lacks of the
// container's, by dockerd's rules (daemon/commit.go, merge): sets are united, variables and
// labels that were sent win, an entry point that was sent comes without the container's
// arguments, and an empty list of it takes the container's away (openshift/imagebuilder
// runs its steps by one of its own).
func fillConfig(sent []byte, base map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	if err := json.Unmarshal(sent, &out); err != nil {
		return nil, fmt.Errorf("config of the commit: %w", err)
	}
	without := isEmptyList(out["Entrypoint"])
	for name, v := range out {
		if isNothing(v) {
			delete(out, name)
		}
	}
	_, entrypoint := out["Entrypoint"]
	for name, v := range base {
		was, there := out[name]
		if !there {
			if !(name == "Cmd" && entrypoint || name == "Entrypoint" && without) {
				out[name] = v
			}
			continue
		}
		var err error
		switch name {
		case "Env":
			out[name], err = uniteEnv(was, v)
		case "Labels", "ExposedPorts", "Volumes", "Healthcheck":
			out[name], err = uniteObjects(was, v)
		}
		if err != nil {
			return nil, fmt.Errorf("config of the commit: %s: %w", name, err)
		}
	}
	return out, nil
}

func isNothing(v json.RawMessage) bool {
	switch string(bytes.TrimSpace(v)) {
	case "null", `""`, "{}":
		return true
	}
	return isEmptyList(v)
}

func isEmptyList(v json.RawMessage) bool {
	var list []json.RawMessage
	return json.Unmarshal(v, &list) == nil && list != nil && len(list) == 0
}

func uniteObjects(first, second json.RawMessage) (json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(second, &all); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(first, &all); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

func uniteEnv(first, second json.RawMessage) (json.RawMessage, error) {
	var list, more []string
	if err := json.Unmarshal(first, &list); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(second, &more); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, kv := range list {
		name, _, _ := strings.Cut(kv, "=")
		known[name] = true
	}
	for _, kv := range more {
		if name, _, _ := strings.Cut(kv, "="); !known[name] {
			list = append(list, kv)
		}
	}
	return json.Marshal(list)
}
