package dockerfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// What variables may grow to. Linux runs no program with a variable above 128 KiB.
const (
	maxValue = 1 << 20   // bytes of one
	maxWords = 256 << 20 // bytes of all words of a Dockerfile, and of the variables of each RUN

	// The frontend looks through all variables at each ENV and ARG, and each stage has a copy, some hundred bytes for
	// one; a global one that is made of others has a copy of all before it. So a Dockerfile of 100 KiB could take all
	// memory, one of 1 MiB a day. What is smaller than that cannot do harm.
	maxVariables    = 10_000    // that ENV and ARG set, or a base image has
	maxCopies       = 1_000_000 // stages times those
	maxReferring    = 2000      // of which the value is made of others
	maxInstructions = 100_000   // some KiB each, and more when they are looked at
	maxLines        = 1_000_000 // some hundred bytes each, also of one instruction
	maxPorts        = 4_000_000 // that EXPOSE names: each is a string, and a range of all of them has nine bytes
	harmless        = 16 << 10  // bytes of a Dockerfile
)

// An expansion refuses a Dockerfile whose variables would grow without bounds: twelve lines of ten
// references each make a value of a terabyte, and the frontend makes it before it asks anybody.
// It reckons what words can come to at most, and leaves what it cannot parse to the frontend.
// What base images bring counts too: their environment, and the instructions of their ONBUILD. They
// are known one after the other, each before it is used.
type expansion struct {
	args map[string]string // build arguments

	mu       sync.Mutex
	file     string // name of the Dockerfile
	text     []byte
	env      []string // of all base images
	most     int      // variables of the base image that has most
	triggers []string // ONBUILD of all base images
}

// read checks the Dockerfile, which is the first file it is called with.
func (e *expansion) read(file string, text []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.file != "" {
		return nil
	}
	e.file, e.text = file, text
	return e.check()
}

// base checks the Dockerfile on top of an image with the given config, JSON. One that cannot be read is the
// frontend's to refuse.
func (e *expansion) base(config []byte) error {
	var img struct {
		Config struct{ Env, OnBuild []string } `json:"config"`
	}
	if err := json.Unmarshal(config, &img); err != nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.env = append(e.env, img.Config.Env...)
	e.most = max(e.most, len(img.Config.Env))
	e.triggers = append(e.triggers, img.Config.OnBuild...)
	return e.check()
}

// check is called with the lock.
func (e *expansion) check() error {
	if n := bytes.Count(e.text, []byte("\n")); n > maxLines {
		return e.refused(&parser.Node{StartLine: maxLines + 1, EndLine: maxLines + 1}, fmt.Errorf("%d lines: at most %d are taken", n, maxLines))
	}
	triggers := strings.Join(e.triggers, "\n")
	grows := strings.Count(triggers, "$")+bytes.Count(e.text, []byte("$")) > 1 ||
		strings.Contains(strings.ToUpper(triggers), "EXPOSE") || bytes.Contains(bytes.ToUpper(e.text), []byte("EXPOSE"))
	many := len(e.text) > harmless || e.most > maxVariables/10 || len(e.triggers) > maxVariables/10
	if !grows && !many {
		return nil
	}
	res, err := parser.Parse(bytes.NewReader(e.text))
	if err != nil {
		return nil
	}
	if err := e.count(res.AST.Children); err != nil || !grows {
		return err
	}
	s := sizes{of: map[string]int64{}}
	for name, value := range e.args {
		s.set(name, int64(len(value)))
	}
	for _, kv := range e.env {
		name, value, _ := strings.Cut(kv, "=")
		s.set(name, int64(len(value)))
	}
	for _, trigger := range e.triggers {
		if res, err := parser.Parse(strings.NewReader(trigger)); err == nil {
			s.triggers = append(s.triggers, res.AST.Children...)
		}
	}
	for _, node := range res.AST.Children {
		if name, n := s.line(node); n > maxValue || s.total > maxWords {
			what := "the variables of the Dockerfile"
			if name != "" {
				what = "the value of " + name
			}
			return e.refused(node, fmt.Errorf("%s would be too large: more than %d bytes", what, maxValue))
		}
		if s.ports > maxPorts {
			return e.refused(node, fmt.Errorf("EXPOSE may come to %d ports: at most %d are taken", s.ports, maxPorts))
		}
	}
	return nil
}

// refused is the error that an instruction is too much.
func (e *expansion) refused(node *parser.Node, err error) error {
	return &Error{
		Where: Location{File: e.file, Text: e.text, Start: node.StartLine, End: node.EndLine},
		Err:   fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument),
	}
}

// count refuses more variables and instructions than the frontend can bear.
func (e *expansion) count(nodes []*parser.Node) error {
	stages, variables, referring := 0, e.most+len(e.triggers), 0
	set := func(value string) {
		variables++
		if strings.Contains(value, "$") {
			referring++
		}
	}
	for i, node := range nodes {
		switch strings.ToUpper(node.Value) {
		case "FROM":
			stages++
		case "ONBUILD":
			variables++
		case "ARG":
			for n := node.Next; n != nil; n = n.Next {
				set(n.Value)
			}
		case "ENV":
			for n := node.Next; n != nil && n.Next != nil && n.Next.Next != nil; n = n.Next.Next.Next {
				set(n.Next.Value)
			}
		}
		var much error
		switch {
		case variables > maxVariables || variables*stages > maxCopies:
			much = fmt.Errorf("%d variables of ENV and ARG in %d stages: at most %d variables, and %d in all stages together, are taken", variables, stages, maxVariables, maxCopies)
		case referring > maxReferring:
			much = fmt.Errorf("%d variables made of others: at most %d are taken", referring, maxReferring)
		case i >= maxInstructions:
			much = fmt.Errorf("%d instructions: at most %d are taken", len(nodes), maxInstructions)
		}
		if much != nil {
			return e.refused(node, much)
		}
	}
	return nil
}

// sizes are the most bytes that variables can have.
type sizes struct {
	of    map[string]int64
	all   int64 // their sum
	total int64 // of what was made so far
	ports int64 // that were named so far

	triggers []*parser.Node // instructions that any FROM may run
}

func (s *sizes) set(name string, n int64) {
	if old := s.of[name]; n > old {
		s.of[name] = n
		s.all += n - old
	}
}

// line counts an instruction. It returns the largest variable that it sets from others.
func (s *sizes) line(node *parser.Node) (name string, most int64) {
	note := func(key, value string) {
		n := s.word(value)
		s.set(key, n)
		if strings.Contains(value, "$") && n > most {
			name, most = key, n
		}
	}
	switch strings.ToUpper(node.Value) {
	case "ONBUILD":
		if node.Next != nil {
			s.triggers = append(s.triggers, node.Next.Children...)
		}
	case "FROM":
		for _, trigger := range s.triggers {
			key, n := "", int64(0)
			if strings.ToUpper(trigger.Value) != "FROM" { // which nobody runs
				key, n = s.line(trigger)
			}
			if n > most {
				name, most = key, n
			}
			if most > maxValue || s.total > maxWords {
				return name, most
			}
		}
	case "RUN":
		s.total += s.all
		return "", 0
	case "EXPOSE":
		for n := node.Next; n != nil; n = n.Next {
			s.ports += s.portsOf(n.Value)
		}
	case "ARG":
		for n := node.Next; n != nil; n = n.Next {
			key, value, _ := strings.Cut(n.Value, "=")
			note(key, value)
		}
	case "ENV": // a list of name, value and what stood between them
		for n := node.Next; n != nil && n.Next != nil && n.Next.Next != nil; n = n.Next.Next.Next {
			note(n.Value, n.Next.Value)
		}
	}
	s.total += s.word(node.Original)
	for _, doc := range node.Heredocs {
		s.total += s.word(doc.Content)
	}
	return name, most
}

// portsOf returns how many ports a word of EXPOSE can be, 8000-8010/tcp or what variables say.
func (s *sizes) portsOf(word string) int64 {
	const all = 1 << 16
	for _, protocol := range []string{"/tcp", "/udp", "/sctp"} {
		word = strings.TrimSuffix(word, protocol)
	}
	if strings.Contains(word, "$") {
		switch n := s.word(word); {
		case n <= int64(len("1-99")):
			return 100
		case n < int64(len("1-65535")):
			return 10_000
		default:
			return (n + 1) / int64(len("1-65535 ")) * all
		}
	}
	word, _, _ = strings.Cut(word, "/")
	first, last, isRange := strings.Cut(word[strings.LastIndexByte(word, ':')+1:], "-")
	if !isRange {
		return 1
	}
	from, err := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if err != nil || err2 != nil || to < from {
		return all
	}
	return int64(to - from + 1)
}

// word returns the most bytes that a word can come to.
func (s *sizes) word(text string) int64 {
	w := words{sizes: s, text: text}
	return w.part(0)
}

// words reads one word, from left to right and once.
type words struct {
	*sizes
	text string // that is left
}

// maxNested is how deep references may be inside each other.
const maxNested = 100

// part returns the most bytes of what comes until the end or, inside a reference, its brace.
func (w *words) part(depth int) (n int64) {
	if depth > maxNested {
		return maxWords
	}
	for w.text != "" && n <= maxWords {
		c := w.text[0]
		w.text = w.text[1:]
		switch {
		case c == '}' && depth > 0:
			return n
		case c == '$':
			n += w.reference(depth)
		default:
			n++
		}
	}
	return n
}

// reference returns the most bytes of $NAME, ${NAME}, ${NAME:-WORD} and the like, and of ${NAME//PATTERN/WORD}.
func (w *words) reference(depth int) int64 {
	rest, braced := strings.CutPrefix(w.text, "{")
	end := strings.IndexFunc(rest, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
	if end < 0 {
		end = len(rest)
	}
	size := w.of[rest[:end]]
	w.text = rest[end:]
	if !braced {
		return size
	}
	pattern, all := strings.CutPrefix(w.text, "//")
	if !all {
		return size + w.part(depth+1)
	}
	pattern, w.text, _ = strings.Cut(pattern, "/")
	least := max(1, int64(len(pattern)-strings.Count(pattern, "*")))
	by := min(w.part(depth+1), maxWords)
	return max(size, min(size, maxWords)*by/least) + by
}
