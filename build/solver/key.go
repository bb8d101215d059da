package solver

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A recordKey is a key under which a result may be known. A transient one is not: something
// in it cannot be named beyond this build, and digest is empty.
type recordKey struct {
	digest    digest.Digest
	transient bool
}

// definitionKey combines an operation with the records it stands on.
func definitionKey[R any](op Key, in []input[R]) recordKey {
	return combine(op.Digest, in, nil)
}

// contentKey combines an operation with what it reads: of each input the digest in content,
// or all of its record where there is none. Without any digest it is the definition key.
func contentKey[R any](op Key, in []input[R], content []digest.Digest) recordKey {
	if op.Content == "" || !slices.ContainsFunc(content, func(d digest.Digest) bool { return d != "" }) {
		return combine(op.Digest, in, content)
	}
	return combine(op.Content, in, content)
}

func combine[R any](op digest.Digest, in []input[R], content []digest.Digest) recordKey {
	if op == "" {
		return recordKey{transient: true}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "op %s\n", op)
	for i, input := range in {
		switch {
		case i < len(content) && content[i] != "":
			fmt.Fprintf(&b, "content %s\n", content[i])
		case input.transient:
			return recordKey{transient: true}
		default:
			fmt.Fprintf(&b, "record %s\n", input.key)
		}
	}
	return recordKey{digest: digest.FromString(b.String())}
}

// plainKeys returns the keys of a result, its content key first, that knows nothing of what was made in spite
// of the cache; none if the result has nothing to do with that.
func plainKeys[R any](v *Vertex[R], op Key, in []input[R], content []digest.Digest) []digest.Digest {
	plain := slices.Clone(in)
	same := !v.IgnoreCache
	for i, input := range in {
		plain[i].key = input.plain
		same = same && input.plain == input.key
	}
	if same {
		return nil
	}
	keys := []digest.Digest{contentKey(op, plain, content).digest}
	if k := definitionKey(op, plain); !k.transient && k.digest != keys[0] {
		keys = append(keys, k.digest)
	}
	return keys
}

// outputKey is the key of one output of the record of key.
func outputKey(key digest.Digest, index int) digest.Digest {
	return digest.FromString(fmt.Sprintf("%s@%d", key, index))
}

// newNode returns the node of a new result under k; the vertex names a transient one.
func newNode[R any](k recordKey, v *Vertex[R], outputs []R) node[R] {
	if k.transient {
		k.digest = v.ID
	}
	return node[R]{Record[R]{Key: k.digest, Description: v.Name, Outputs: outputs}, k.transient}
}

func values[R any](in []input[R]) []R {
	list := make([]R, len(in))
	for i := range in {
		list[i] = in[i].value
	}
	return list
}
