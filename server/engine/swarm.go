package engine

import (
	"net/http"

	"github.com/containerd/errdefs"
)

// notSwarm is how an engine outside a swarm answers about services, nodes and the like
// (moby daemon/cluster/errors.go).
func notSwarm(http.ResponseWriter, *request) error {
	return worded(errdefs.ErrUnavailable, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
}

func leaveSwarm(http.ResponseWriter, *request) error {
	return worded(errdefs.ErrUnavailable, "This node is not part of a swarm")
}

func noSwarm(http.ResponseWriter, *request) error { return notImplemented("swarm mode") }

func noPlugins(w http.ResponseWriter, _ *request) error {
	return writeJSON(w, http.StatusOK, []struct{}{})
}

func noSuchPlugin(_ http.ResponseWriter, r *request) error {
	return worded(errdefs.ErrNotFound, "plugin %q not found", r.name)
}

func noPluginChange(http.ResponseWriter, *request) error { return notImplemented("managing plugins") }

// unsupported answers what docker has and teu has not.
func unsupported(what string) handler {
	return func(http.ResponseWriter, *request) error { return notImplemented(what) }
}
