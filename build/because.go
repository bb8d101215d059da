package build

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/teu-dev/teu/cache/statefile"
)

// place takes a name such as "[stage 2/3] RUN make" to pieces.
func place(name string) (stage, number, instruction string) {
	head, instruction, ok := strings.Cut(strings.TrimPrefix(name, "["), "] ")
	if !ok {
		return "", "", name
	}
	if i := strings.LastIndexByte(head, ' '); i >= 0 {
		return head[:i], head[i+1:], instruction
	}
	return "", head, instruction
}

// last finds the step in an earlier build: the same instruction of the stage, or what stood in its place.
func (s *stepFacts) last(steps []*stepFacts) *stepFacts {
	stage, number, instruction := place(s.Name)
	var best *stepFacts
	score := 0
	for _, old := range steps {
		oldStage, oldNumber, oldInstruction := place(old.Name)
		n := 0
		switch {
		case oldInstruction == instruction && oldStage == stage && oldNumber == number:
			n = 4
		case oldInstruction == instruction && oldStage == stage:
			n = 3
		case oldInstruction == instruction:
			n = 2
		case oldStage == stage && oldNumber == number:
			n = 1
		}
		if n >= score && n > 0 {
			best, score = old, n
		}
	}
	return best
}

// because says why now ran, while old was the state of things at the last build. old may be nil; first
// says that there was no last build.
func (h *historian) because(now, old *stepFacts, first bool) []string {
	var list []string
	if now.ignored {
		list = append(list, "--no-cache or --no-cache-filter asked for it")
	}
	switch {
	case old == nil && first:
		return append(list, "it is the first build of this Dockerfile and context here")
	case old == nil:
		return append(list, "the step is new")
	}
	list = append(list, differences(old.Parts, now.Parts)...)
	for i, in := range now.Inputs {
		if i < len(old.Inputs) {
			list = append(list, h.changed(old.Inputs[i], in)...)
		} else {
			list = append(list, "it depends on "+in.Name+" now")
		}
	}
	if len(list) == 0 {
		list = append(list, "nothing changed, but its result was not in the cache: it was pruned, it failed, or another build of the same step replaced it")
	}
	return list
}

// differences names the parts of an instruction that are not what they were.
func differences(old, now map[string]string) (list []string) {
	names := map[string]bool{}
	for _, m := range []map[string]string{old, now} {
		for name := range m {
			names[name] = true
		}
	}
	for name := range names {
		was, hadIt := old[name]
		is, hasIt := now[name]
		plain := !strings.HasPrefix(name, "the mount ") && !strings.HasPrefix(name, "the instruction ")
		switch {
		case was == is && hadIt == hasIt:
		case !hadIt:
			list = append(list, name+" is new")
		case !hasIt:
			list = append(list, name+" is gone")
		case plain:
			list = append(list, fmt.Sprintf("%s changed from %q to %q", name, clip(was), clip(is)))
		default:
			list = append(list, name+" changed")
		}
	}
	slices.Sort(list)
	return list
}

func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}

// changed says what of an input is not what it was.
func (h *historian) changed(old, now inputFacts) []string {
	if old.Content != "" && now.Content != "" {
		if old.Content == now.Content {
			return nil
		}
		if now.Local && old.Local {
			return h.changedFiles(old, now)
		}
		return []string{"what it reads of " + now.Name + " changed"}
	}
	switch {
	case old.State == now.State:
		return nil
	case now.Digest != "" && old.Digest != "" && now.Digest != old.Digest:
		return []string{fmt.Sprintf("the base image %s changed from %s to %s", now.Image, old.Digest, now.Digest)}
	case old.Name != now.Name:
		return []string{"it stands on " + now.Name + " now"}
	}
	return []string{now.Name + " gave another result"}
}

// changedFiles names files of a directory of this machine.
func (h *historian) changedFiles(old, now inputFacts) (list []string) {
	var was map[string]string
	if err := statefile.Read(filepath.Join(h.dir, old.Content.Encoded()), &was); err != nil {
		return []string{"files it reads of " + now.Name + " changed"}
	}
	is := now.files
	if is == nil {
		if err := statefile.Read(filepath.Join(h.dir, now.Content.Encoded()), &is); err != nil {
			return []string{"files it reads of " + now.Name + " changed"}
		}
	}
	for p, d := range is {
		switch before, ok := was[p]; {
		case !ok:
			list = append(list, "/"+p+" is new")
		case before != d:
			list = append(list, "/"+p+" changed")
		}
	}
	for p := range was {
		if _, ok := is[p]; !ok {
			list = append(list, "/"+p+" is gone")
		}
	}
	slices.Sort(list)
	const most = 10
	if n := len(list); n > most {
		list = append(list[:most], fmt.Sprintf("and %d more files", n-most))
	}
	if len(list) == 0 {
		list = []string{"files it reads of " + now.Name + " changed"}
	}
	return list
}
