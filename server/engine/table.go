package engine

import "net/http"

// table is every operation of the API, in the order of swagger.yaml's sections. What
// stands first wins, so fixed paths stand before those with a name.
func (s *Server) table() []route {
	const get, head, post, put, del = http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete
	t := []route{
		{head, "/_ping", 0, s.ping},
		{get, "/_ping", 0, s.ping},
		{get, "/version", 0, s.getVersion},
		{get, "/info", 0, s.getInfo},
		{get, "/events", 0, s.events},
		{get, "/system/df", 25, s.diskUsage},
		{post, "/auth", 0, s.auth},

		{get, "/containers/json", 0, s.listContainers},
		{post, "/containers/create", 0, s.createContainer},
		{post, "/containers/prune", 25, s.pruneContainers},
		{head, "/containers/{name}/archive", 0, s.statArchive},
		{get, "/containers/{name}/archive", 0, s.getArchive},
		{put, "/containers/{name}/archive", 0, s.putArchive},
		{get, "/containers/{name}/export", 0, s.export},
		{get, "/containers/{name}/changes", 0, s.changes},
		{get, "/containers/{name}/json", 0, s.inspectContainer},
		{get, "/containers/{name}/top", 0, s.top},
		{get, "/containers/{name}/logs", 0, s.logs},
		{get, "/containers/{name}/stats", 0, s.stats},
		{get, "/containers/{name}/attach/ws", 0, s.attachWebSocket},
		{post, "/containers/{name}/attach", 0, s.attach},
		{post, "/containers/{name}/start", 0, s.startContainer},
		{post, "/containers/{name}/stop", 0, s.stopContainer},
		{post, "/containers/{name}/restart", 0, s.restartContainer},
		{post, "/containers/{name}/kill", 0, s.killContainer},
		{post, "/containers/{name}/pause", 0, s.pauseContainer},
		{post, "/containers/{name}/unpause", 0, s.unpauseContainer},
		{post, "/containers/{name}/wait", 0, s.wait},
		{post, "/containers/{name}/resize", 0, s.resize},
		{post, "/containers/{name}/rename", 0, s.rename},
		{post, "/containers/{name}/update", 0, s.update},
		{post, "/containers/{name}/exec", 0, s.createExec},
		{get, "/containers/{name}/checkpoints", 25, unsupported("checkpointing containers")},
		{post, "/containers/{name}/checkpoints", 25, unsupported("checkpointing containers")},
		{del, "/containers/{name}", 0, s.removeContainer},
		{post, "/commit", 0, s.commit},

		{post, "/exec/{name}/start", 0, s.startExec},
		{post, "/exec/{name}/resize", 0, s.resizeExec},
		{get, "/exec/{name}/json", 0, s.inspectExec},

		{get, "/images/json", 0, s.listImages},
		{get, "/images/search", 0, s.searchImages},
		{get, "/images/get", 0, s.saveImages},
		{post, "/images/load", 0, s.loadImages},
		{post, "/images/create", 0, s.createImage},
		{post, "/images/prune", 25, s.pruneImages},
		{get, "/images/{name...}/get", 0, s.saveImages},
		{get, "/images/{name...}/history", 0, s.history},
		{get, "/images/{name...}/attestations", 55, s.attestations},
		{get, "/images/{name...}/json", 0, s.inspectImage},
		{post, "/images/{name...}/push", 0, s.push},
		{post, "/images/{name...}/tag", 0, s.tag},
		{del, "/images/{name...}", 0, s.removeImage},
		{get, "/distribution/{name...}/json", 30, s.distribution},

		{post, "/build", 0, s.build},
		{post, "/build/prune", 31, s.pruneBuild},
		{post, "/build/cancel", 39, s.cancelBuild},
		{post, "/session", 31, s.session},
		{post, "/grpc", 39, s.grpc},
	}
	t = append(t, s.networkRoutes()...)
	return append(t, swarmRoutes()...)
}

func (s *Server) networkRoutes() []route {
	const get, post, put, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete
	return []route{
		{get, "/networks", 0, s.listNetworks},
		{get, "/networks/", 0, s.listNetworks},
		{post, "/networks/create", 0, s.createNetwork},
		{post, "/networks/prune", 25, s.pruneNetworks},
		{get, "/networks/{name}", 0, s.inspectNetwork},
		{post, "/networks/{name}/connect", 0, s.connect},
		{post, "/networks/{name}/disconnect", 0, s.disconnect},
		{del, "/networks/{name}", 0, s.removeNetwork},

		{get, "/volumes", 0, s.listVolumes},
		{post, "/volumes/create", 0, s.createVolume},
		{post, "/volumes/prune", 25, s.pruneVolumes},
		{get, "/volumes/{name}", 0, s.inspectVolume},
		{put, "/volumes/{name}", 42, notSwarm},
		{del, "/volumes/{name}", 0, s.removeVolume},
	}
}

// swarmRoutes answer as an engine outside a swarm, and one without plugins.
func swarmRoutes() []route {
	const get, post, del = http.MethodGet, http.MethodPost, http.MethodDelete
	t := []route{
		{get, "/swarm", 0, notSwarm},
		{get, "/swarm/unlockkey", 0, notSwarm},
		{post, "/swarm/init", 0, noSwarm},
		{post, "/swarm/join", 0, noSwarm},
		{post, "/swarm/leave", 0, leaveSwarm},
		{post, "/swarm/update", 0, notSwarm},
		{post, "/swarm/unlock", 0, notSwarm},
	}
	for _, kind := range []string{"services", "nodes", "tasks", "secrets", "configs"} {
		t = append(t, route{get, "/" + kind, 0, notSwarm}, route{get, "/" + kind + "/{name}", 0, notSwarm})
		if kind == "tasks" {
			t = append(t, route{get, "/tasks/{name}/logs", 29, notSwarm})
			continue
		}
		if kind != "nodes" {
			t = append(t, route{post, "/" + kind + "/create", 0, notSwarm})
		}
		t = append(t, route{post, "/" + kind + "/{name}/update", 0, notSwarm}, route{del, "/" + kind + "/{name}", 0, notSwarm})
	}
	return append(t,
		route{get, "/services/{name}/logs", 29, notSwarm},
		route{get, "/plugins", 25, noPlugins},
		route{get, "/plugins/privileges", 25, noPluginChange},
		route{post, "/plugins/pull", 25, noPluginChange},
		route{post, "/plugins/create", 25, noPluginChange},
		route{get, "/plugins/{name...}/json", 25, noSuchPlugin},
		route{post, "/plugins/{name...}/enable", 25, noSuchPlugin},
		route{post, "/plugins/{name...}/disable", 25, noSuchPlugin},
		route{post, "/plugins/{name...}/upgrade", 26, noSuchPlugin},
		route{post, "/plugins/{name...}/push", 25, noSuchPlugin},
		route{post, "/plugins/{name...}/set", 25, noSuchPlugin},
		route{del, "/plugins/{name...}", 25, noSuchPlugin},
	)
}
