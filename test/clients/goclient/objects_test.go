package goclient

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// archive is a tar of files with their texts, in order.
func archive(t *testing.T, namesAndTexts ...string) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := 0; i < len(namesAndTexts); i += 2 {
		text := namesAndTexts[i+1]
		if err := w.WriteHeader(&tar.Header{Name: namesAndTexts[i], Mode: 0o640, Uid: 7, Gid: 8, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &out
}

// first returns the first file of a tar.
func first(t *testing.T, r io.Reader) (*tar.Header, string) {
	t.Helper()
	in := tar.NewReader(r)
	head := must[*tar.Header](t)(in.Next())
	return head, string(must[[]byte](t)(io.ReadAll(in)))
}

func TestCopy(t *testing.T) {
	e := connect(t)
	id := e.run()
	must[client.CopyToContainerResult](t)(e.CopyToContainer(e.ctx, id, client.CopyToContainerOptions{DestinationPath: "/tmp", Content: archive(t, "file", "text"), CopyUIDGID: true}))
	stat := must[client.ContainerStatPathResult](t)(e.ContainerStatPath(e.ctx, id, client.ContainerStatPathOptions{Path: "/tmp/file"})).Stat
	if stat.Name != "file" || stat.Size != 4 || stat.Mode != 0o640 {
		t.Errorf("stat: %+v", stat)
	}
	back := must[client.CopyFromContainerResult](t)(e.CopyFromContainer(e.ctx, id, client.CopyFromContainerOptions{SourcePath: "/tmp/file"}))
	defer back.Content.Close()
	if head, text := first(t, back.Content); text != "text" || head.Name != "file" || head.Mode&0o777 != 0o640 || head.Uid != 7 || head.Gid != 8 {
		t.Errorf("copied back: %+v, %q", head, text)
	}
	changes := must[client.ContainerDiffResult](t)(e.ContainerDiff(e.ctx, id, client.ContainerDiffOptions{})).Changes
	if len(changes) != 2 || changes[1].Path != "/tmp/file" || changes[1].Kind != container.ChangeAdd {
		t.Errorf("changes: %+v", changes)
	}
	export := must[client.ContainerExportResult](t)(e.ContainerExport(e.ctx, id, client.ContainerExportOptions{}))
	defer export.Close()
	files := 0
	for in := tar.NewReader(export); ; files++ {
		if _, err := in.Next(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if files < 100 {
		t.Errorf("%d files were exported", files)
	}
}

// TestImage: built, inspected, tagged, saved, removed, loaded, listed.
func TestImage(t *testing.T) {
	e := connect(t)
	word := "word"
	build := must[client.ImageBuildResult](t)(e.ImageBuild(e.ctx, archive(t, "Dockerfile", "FROM busybox\nARG W\nCOPY file /file\nRUN echo $W >/word\nCMD [\"cat\", \"/file\", \"/word\"]\n", "file", "text\n"),
		client.ImageBuildOptions{Tags: []string{"go/built:1"}, BuildArgs: map[string]*string{"W": &word}, Labels: map[string]string{"from": "go"}, Remove: true, NetworkMode: "none"}))
	defer build.Body.Close()
	for in := json.NewDecoder(build.Body); in.More(); {
		var line struct{ Error string }
		if err := in.Decode(&line); err != nil || line.Error != "" {
			t.Fatalf("building: %q, %v", line.Error, err)
		}
	}
	image := must[client.ImageInspectResult](t)(e.ImageInspect(e.ctx, "go/built:1"))
	if image.Config.Labels["from"] != "go" || image.Os != "linux" || len(image.RootFS.Layers) != 3 {
		t.Errorf("inspected: %+v", image)
	}
	history := must[client.ImageHistoryResult](t)(e.ImageHistory(e.ctx, image.ID))
	if len(history.Items) == 0 || !strings.Contains(history.Items[0].CreatedBy, `"cat" "/file" "/word"`) {
		t.Errorf("history: %+v", history.Items)
	}
	must[client.ImageTagResult](t)(e.ImageTag(e.ctx, client.ImageTagOptions{Source: "go/built:1", Target: "go/built:2"}))
	saved := must[client.ImageSaveResult](t)(e.ImageSave(e.ctx, []string{"go/built:1", "go/built:2"}))
	tape := must[[]byte](t)(io.ReadAll(saved))
	saved.Close()
	for _, name := range []string{"go/built:1", "go/built:2"} {
		if gone := must[client.ImageRemoveResult](t)(e.ImageRemove(e.ctx, name, client.ImageRemoveOptions{})); gone.Items[0].Untagged != name {
			t.Errorf("removed: %+v", gone.Items)
		}
	}
	loaded := must[client.ImageLoadResult](t)(e.ImageLoad(e.ctx, bytes.NewReader(tape)))
	text := must[[]byte](t)(io.ReadAll(loaded))
	loaded.Close()
	if !bytes.Contains(text, []byte("Loaded image: go/built:2")) {
		t.Errorf("loading says %s", text)
	}
	list := must[client.ImageListResult](t)(e.ImageList(e.ctx, client.ImageListOptions{Filters: make(client.Filters).Add("label", "from=go")}))
	if len(list.Items) != 1 || list.Items[0].ID != image.ID || len(list.Items[0].RepoTags) != 2 {
		t.Errorf("listed: %+v", list.Items)
	}
	must[client.ImageRemoveResult](t)(e.ImageRemove(e.ctx, image.ID, client.ImageRemoveOptions{Force: true}))
}

func TestNetworksAndVolumes(t *testing.T) {
	e := connect(t)
	net := must[client.NetworkCreateResult](t)(e.NetworkCreate(e.ctx, "go-net", client.NetworkCreateOptions{
		Labels: map[string]string{"from": "go"}, IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix("10.97.0.0/24")}}}})).ID
	volume := must[client.VolumeCreateResult](t)(e.VolumeCreate(e.ctx, client.VolumeCreateOptions{Name: "go-volume", Labels: map[string]string{"from": "go"}})).Volume
	port := network.MustParsePort("80/tcp")
	created := must[client.ContainerCreateResult](t)(e.ContainerCreate(e.ctx, client.ContainerCreateOptions{
		Name:   "go-server",
		Config: &container.Config{Image: "busybox", Cmd: []string{"sh", "-c", "echo served >/data/index.html; exec httpd -f -p 80 -h /data"}, ExposedPorts: network.PortSet{port: {}}},
		HostConfig: &container.HostConfig{
			PortBindings: network.PortMap{port: {{HostIP: netip.MustParseAddr("127.0.0.1")}}},
			Mounts:       []mount.Mount{{Type: mount.TypeVolume, Source: volume.Name, Target: "/data"}, {Type: mount.TypeTmpfs, Target: "/scratch", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 1 << 20}}},
		},
		NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"go-net": {Aliases: []string{"server"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.97.0.9")}}}},
	}))
	e.start(created.ID)
	got := must[client.ContainerInspectResult](t)(e.ContainerInspect(e.ctx, "go-server", client.ContainerInspectOptions{})).Container
	if end := got.NetworkSettings.Networks["go-net"]; end == nil || end.IPAddress.String() != "10.97.0.9" || end.NetworkID != net {
		t.Errorf("endpoint: %+v", end)
	}
	if bound := got.NetworkSettings.Ports[port]; len(bound) != 1 || bound[0].HostPort == "" || bound[0].HostIP.String() != "127.0.0.1" {
		t.Errorf("ports: %+v", got.NetworkSettings.Ports)
	}
	if m := got.Mounts; len(m) != 2 || m[0].Name+m[1].Name != "go-volume" || m[0].Destination+m[1].Destination != "/data/scratch" {
		t.Errorf("mounts: %+v", got.Mounts)
	}
	asker := e.create(container.Config{}, container.HostConfig{NetworkMode: "go-net"}, "sh", "-c", "for i in $(seq 50); do wget -qO- http://server/ && break; sleep 0.1; done")
	end := e.code(asker, container.WaitConditionNextExit)
	e.start(asker)
	if code := <-end; code != 0 {
		t.Errorf("the server was not reached by its alias: code %d", code)
	}
	inspected := must[client.NetworkInspectResult](t)(e.NetworkInspect(e.ctx, "go-net", client.NetworkInspectOptions{})).Network
	if len(inspected.Containers) != 1 || inspected.Labels["from"] != "go" {
		t.Errorf("network: %+v", inspected)
	}
	must[client.ContainerRemoveResult](t)(e.ContainerRemove(e.ctx, created.ID, client.ContainerRemoveOptions{Force: true}))
	must[client.ContainerRemoveResult](t)(e.ContainerRemove(e.ctx, asker, client.ContainerRemoveOptions{Force: true}))
	must[client.NetworkRemoveResult](t)(e.NetworkRemove(e.ctx, "go-net", client.NetworkRemoveOptions{}))
	must[client.VolumeRemoveResult](t)(e.VolumeRemove(e.ctx, "go-volume", client.VolumeRemoveOptions{}))
}

// TestEvents: a client that watches hears of a container's whole life in order.
func TestEvents(t *testing.T) {
	e := connect(t)
	watched := e.Events(e.ctx, client.EventsListOptions{Filters: make(client.Filters).Add("label", "watched=go").Add("type", "container")})
	id := e.create(container.Config{Labels: map[string]string{"watched": "go"}}, container.HostConfig{}, "sh", "-c", "exit 2")
	e.start(id)
	<-e.code(id, container.WaitConditionNotRunning)
	must[client.ContainerRemoveResult](t)(e.ContainerRemove(e.ctx, id, client.ContainerRemoveOptions{}))
	var heard []string
	for len(heard) < 4 {
		select {
		case m := <-watched.Messages:
			heard = append(heard, string(m.Action))
			if m.Action == "die" && m.Actor.Attributes["exitCode"] != "2" {
				t.Errorf("die says %v", m.Actor.Attributes)
			}
		case err := <-watched.Err:
			t.Fatalf("after %q: %v", heard, err)
		}
	}
	if strings.Join(heard, " ") != "create start die destroy" {
		t.Errorf("heard %q", heard)
	}
}

func TestLifeCycle(t *testing.T) {
	e := connect(t)
	id := e.run()
	must[client.ContainerPauseResult](t)(e.ContainerPause(e.ctx, id, client.ContainerPauseOptions{}))
	must[client.ContainerUnpauseResult](t)(e.ContainerUnpause(e.ctx, id, client.ContainerUnpauseOptions{}))
	must[client.ContainerRenameResult](t)(e.ContainerRename(e.ctx, id, client.ContainerRenameOptions{NewName: "go-renamed"}))
	must[client.ContainerUpdateResult](t)(e.ContainerUpdate(e.ctx, id, client.ContainerUpdateOptions{Resources: &container.Resources{Memory: 64 << 20, MemorySwap: 64 << 20},
		RestartPolicy: &container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 2}}))
	now := 0
	must[client.ContainerRestartResult](t)(e.ContainerRestart(e.ctx, id, client.ContainerRestartOptions{Timeout: &now}))
	got := must[client.ContainerInspectResult](t)(e.ContainerInspect(e.ctx, "go-renamed", client.ContainerInspectOptions{Size: true})).Container
	if got.HostConfig.Memory != 64<<20 || got.HostConfig.RestartPolicy.MaximumRetryCount != 2 || !got.State.Running || got.SizeRootFs == nil {
		t.Errorf("inspected: %+v, %+v", got.HostConfig, got.State)
	}
	gone := e.code(id, container.WaitConditionRemoved)
	must[client.ContainerStopResult](t)(e.ContainerStop(e.ctx, id, client.ContainerStopOptions{Timeout: &now}))
	image := must[client.ContainerCommitResult](t)(e.ContainerCommit(e.ctx, id, client.ContainerCommitOptions{Reference: "go/committed", Changes: []string{"ENV A=b"}})).ID
	must[client.ImageRemoveResult](t)(e.ImageRemove(e.ctx, image, client.ImageRemoveOptions{Force: true}))
	must[client.ContainerRemoveResult](t)(e.ContainerRemove(e.ctx, id, client.ContainerRemoveOptions{}))
	if code := <-gone; code != 137 {
		t.Errorf("waited for its removal: %d", code)
	}
	list := must[client.ContainerListResult](t)(e.ContainerList(e.ctx, client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("id", id)}))
	if len(list.Items) != 0 {
		t.Errorf("it is still listed: %+v", list.Items)
	}
}
