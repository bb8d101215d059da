//go:build !front

package main

import (
	"context"
	"fmt"
	"maps"

	"github.com/distribution/reference"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/registry"
)

// library returns the images of this machine.
func (a *app) library() (*library.Library, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	return a.libraryWith(store, a.registry()), nil
}

// libraryWith returns the images of store, and reaches registries by client.
func (a *app) libraryWith(store *cache.Store, client *registry.Client) *library.Library {
	return &library.Library{Store: store, Registry: client, Containers: a.imageUsers, Tell: a.tellImage, Change: changeConfig}
}

// tellImage adds an event of an image to the journal, with its labels as docker does.
func (a *app) tellImage(action, id, name string, labels map[string]string) {
	attributes := map[string]string{}
	maps.Copy(attributes, labels)
	attributes["name"] = name
	a.engine().Emit("image", action, id, attributes)
}

// imageUsers lists the containers for the library.
func (a *app) imageUsers(ctx context.Context) ([]library.Container, error) {
	all, err := a.engine().List(ctx)
	if err != nil {
		return nil, err
	}
	var list []library.Container
	for _, c := range all {
		one := library.Container{ID: c.ID, Name: c.Name, Image: c.ImageID, Running: c.State.Status.GoesOn()}
		list = append(list, one)
		for _, m := range c.Mounts {
			if one.Image = m.ImageID; one.Image != "" {
				list = append(list, one)
			}
		}
	}
	return list, nil
}

// parseName reads the name of an image as docker does: docker.io and library/ may be left out.
func parseName(s string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	return ref, nil
}

// completeTag adds :latest to a name without tag and digest, and says so.
func (a *app) completeTag(ref reference.Named, quiet bool) reference.Named {
	if reference.IsNameOnly(ref) {
		ref = reference.TagNameOnly(ref)
		if !quiet {
			a.ui.Println("Using default tag: latest")
		}
	}
	return ref
}

// wholeParts are those of an app that the front does not have.
type wholeParts struct{ client *registry.Client }

// registry returns the client of registries.
func (a *app) registry() *registry.Client {
	if a.whole.client == nil {
		a.whole.client = a.registryWith(nil)
	}
	return a.whole.client
}

// registryWith returns a client that has the credentials of keys; nil: those of docker's config.json.
func (a *app) registryWith(keys registry.Keychain) *registry.Client {
	return registry.New(registry.Options{
		Insecure: a.config.InsecureRegistries, Mirrors: a.config.RegistryMirrors, UserAgent: "teu/" + version(), Keychain: keys,
	})
}
