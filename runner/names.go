package runner

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/statefile"
)

func newID() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (e *Engine) names() string { return filepath.Join(e.Root, "names") }

// renaming has a file for each container that is being renamed.
func (e *Engine) renaming() string { return filepath.Join(e.Root, "renaming") }

// nameOf returns the container's name. A container without one is just being made.
func (e *Engine) nameOf(id string) string {
	b, err := statefile.ReadFile(e.nameFile(id), 4096)
	if err != nil {
		return ""
	}
	if name := strings.TrimSpace(string(b)); name != "" {
		return name
	}
	return e.linkTo(id) // a power loss may leave the file empty
}

// linkTo returns a name whose link leads to id, or "".
func (e *Engine) linkTo(id string) string {
	entries, _ := os.ReadDir(e.names())
	for _, d := range entries {
		if to, err := os.Readlink(filepath.Join(e.names(), d.Name())); err == nil && to == id {
			return d.Name()
		}
	}
	return ""
}

// resolve finds the ID behind a whole ID, a name, or the beginning of an ID, in this order.
func (e *Engine) resolve(ref string) (string, error) {
	ref = strings.TrimPrefix(ref, "/")
	if ref == "" {
		return "", worded(errdefs.ErrInvalidArgument, "invalid container name or ID: value is empty")
	}
	if isHex(ref) && len(ref) == 64 {
		if _, err := os.Lstat(e.dir(ref)); err == nil {
			return ref, nil
		}
	}
	if checkName(ref) == nil {
		if id, err := os.Readlink(filepath.Join(e.names(), ref)); err == nil {
			if _, err := os.Lstat(e.dir(id)); err == nil && e.nameOf(id) == ref {
				return id, nil
			}
		}
	}
	if !isHex(ref) {
		return "", noSuchContainer(ref)
	}
	ids, err := e.IDs()
	if err != nil {
		return "", err
	}
	found := ""
	for _, id := range ids {
		if !strings.HasPrefix(id, ref) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("multiple containers begin with %s: %w", ref, errdefs.ErrInvalidArgument)
		}
		found = id
	}
	if found == "" {
		return "", noSuchContainer(ref)
	}
	return found, nil
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}

// longestName is how many bytes the name of a container or volume may have: those of a file's.
const longestName = 255

// checkName is docker's rule: [a-zA-Z0-9][a-zA-Z0-9_.-]+
func checkName(name string) error {
	if len(name) > longestName {
		return worded(errdefs.ErrInvalidArgument, "Invalid container name (%.20s...): it is longer than %d bytes", name, longestName)
	}
	ok := len(name) >= 2
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (letter || i > 0 && (c == '_' || c == '.' || c == '-'))
	}
	if !ok {
		return worded(errdefs.ErrInvalidArgument, "Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	return nil
}

func (e *Engine) lockNames(ctx context.Context) (func() error, error) {
	if err := os.MkdirAll(e.names(), 0o700); err != nil {
		return nil, err
	}
	return statefile.Lock(ctx, filepath.Join(e.Root, "names.lock"), statefile.LockOptions{})
}

// claimName gives a free name to a container, durably, or a random one if name is empty, in place of the old one, if any.
func (e *Engine) claimName(ctx context.Context, id, name, old string) (string, error) {
	unlock, err := e.lockNames(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if name, err = e.linkName(ctx, id, name); err != nil {
		return "", err
	}
	if err := e.setName(id, name); err != nil {
		return "", err
	}
	if old != "" {
		err = os.Remove(filepath.Join(e.names(), old))
	}
	return name, err
}

// linkName makes the link of a name that is free. The names are locked.
func (e *Engine) linkName(ctx context.Context, id, name string) (string, error) {
	for try := 0; ; try++ {
		chosen := name
		if name == "" {
			chosen = randomName(try)
		}
		err := e.link(id, chosen)
		if errors.Is(err, errdefs.ErrConflict) && try == 0 && e.sweep(ctx) == nil {
			err = e.link(id, chosen) // it was of one that was never finished
		}
		if err == nil || name != "" || !errors.Is(err, errdefs.ErrConflict) || try > 100 {
			return chosen, err
		}
	}
}

// link makes the link of a name. A link to a container that does not call itself so was
// left by a process that died; it is replaced.
func (e *Engine) link(id, name string) error {
	path := filepath.Join(e.names(), name)
	for {
		err := os.Symlink(id, path)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		owner, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if owner != id && e.nameOf(owner) == name {
			return worded(errdefs.ErrConflict, "Conflict. The container name \"/%s\" is already in use by container %q. "+
				"You have to remove (or rename) that container to be able to reuse that name.", name, owner)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// sweepNames removes links to containers that are gone or do not call themselves so: whoever gave or took the name has died.
func (e *Engine) sweepNames(ctx context.Context) error {
	unlock, err := e.lockNames(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	links, err := os.ReadDir(e.names())
	errs := []error{err}
	for _, d := range links {
		path := filepath.Join(e.names(), d.Name())
		owner, err := os.Readlink(path)
		if err != nil {
			continue
		}
		_, err = os.Lstat(e.dir(owner))
		if own := e.nameOf(owner); errors.Is(err, fs.ErrNotExist) || own != "" && own != d.Name() {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// setName writes the container's own record of its name.
func (e *Engine) setName(id, name string) error {
	path := e.nameFile(id)
	if err := os.WriteFile(path+".new", []byte(name+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Rename gives a container another name.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	name = strings.TrimPrefix(name, "/")
	if name == "" {
		return worded(errdefs.ErrInvalidArgument, "Neither old nor new names may be empty")
	}
	id, err := e.resolve(ref)
	if err != nil {
		return err
	}
	unlock, err := e.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if !e.recorded(id) { // yet
		return noSuchContainer(ref)
	}
	old := e.nameOf(id)
	if old == name {
		return worded(errdefs.ErrInvalidArgument, "Renaming a container with the same name as its current name")
	}
	if err := checkName(name); err != nil {
		return fmt.Errorf("Error when allocating new name: %w", err)
	}
	mark := filepath.Join(e.renaming(), id)
	if err := errors.Join(os.MkdirAll(e.renaming(), 0o700), os.WriteFile(mark, nil, 0o600)); err != nil {
		return err
	}
	if _, err := e.claimName(ctx, id, name, old); err != nil {
		return errors.Join(fmt.Errorf("Error when allocating new name: %w", err), os.Remove(mark))
	}
	if c, err := e.load(id); err == nil {
		e.tell(c, "rename", map[string]string{"oldName": "/" + old})
	}
	return errors.Join(e.renamed(ctx, id), os.Remove(mark))
}

// mendRenames tells the networks of renames whose process has died before it could: else the old name would be answered
// until the next start.
func (e *Engine) mendRenames(ctx context.Context) {
	entries, _ := os.ReadDir(e.renaming()) // empty, but for moments
	for _, d := range entries {
		mark := filepath.Join(e.renaming(), d.Name())
		unlock, ok, err := statefile.TryLock(filepath.Join(e.dir(d.Name()), "lock"), statefile.LockOptions{})
		if errors.Is(err, fs.ErrNotExist) { // the container is gone
			os.Remove(mark)
		}
		if err != nil || !ok {
			continue
		}
		if e.renamed(ctx, d.Name()) == nil {
			os.Remove(mark)
		}
		unlock()
	}
}

// randomName is docker's kind of name, with a number if it is not the first try.
func randomName(try int) string {
	name := adjectives()[mathrand.IntN(len(adjectives()))] + "_" + surnames()[mathrand.IntN(len(surnames()))]
	if try > 3 {
		name += fmt.Sprint(mathrand.IntN(1000))
	}
	return name
}

func adjectives() []string {
	return strings.Fields(`able amber brave breezy bright brisk calm careful cheerful clever crisp curious daring
deft eager early earnest fair fearless fine fond frank free fresh gentle glad golden grand hardy honest hopeful
humble jolly keen kind lively loyal lucid lucky merry mild modest neat nimble noble open patient plucky polite
proud quick quiet ready robust serene sharp silent smart snug solid sound stable steady sturdy sunny swift tidy
trusty upbeat vivid warm wise witty zealous`)
}

func surnames() []string {
	return strings.Fields(`abel ampere babbage banach bell bohr boole borg braun cantor carson cerf clarke curie
darwin dijkstra dirac driscoll edison einstein elion euclid euler faraday fermat fermi feynman franklin galileo
galois gauss goodall hamilton hawking hertz hilbert hoare hopper hugle hypatia jang johnson joliot kalam kare
kepler khorana kilby knuth lamarr leakey lichterman liskov lovelace mccarthy mcclintock meitner mendel mirzakhani
morse newton nightingale nobel noether noyce pascal pasteur perlman pike planck ptolemy ride ritchie rosalind
rubin sammet shannon shaw sinoussi snyder spence stallman swartz tesla thompson torvalds tu turing villani
wiles wilson wozniak wright yalow yonath`)
}
