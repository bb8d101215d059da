package solver

import (
	"fmt"
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
	return contentKey(op, in, nil)
}

// contentKey combines an operation with what it reads: of each input the digest in content,
// or all of its record where there is none. Without any digest it is the definition key.
func contentKey[R any](op Key, in []input[R], content []digest.Digest) recordKey {
	if op.Digest == "" {
		return recordKey{transient: true}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "op %s\n", op.Digest)
	for i, input := range in {
		switch {
		case i < len(content) && content[i] != "":
			fmt.Fprintf(&b, "content %s\n", content[i])
		case input.transient:
			return recordKey{transient: true}
		default:
			fmt.Fprintf(&b, "record %s\n", input.key)
			if i < len(op.Selectors) && op.Selectors[i] != "" {
				fmt.Fprintf(&b, "selector %s\n", op.Selectors[i])
			}
		}
	}
	return recordKey{digest: digest.FromString(b.String())}
}

// outputKey is the key of one output of the record of key.
func outputKey(key digest.Digest, index int) digest.Digest {
	return digest.FromString(fmt.Sprintf("%s@%d", key, index))
}

// newNode returns the node of a new result under k; vertex names a transient one.
func newNode[R any](k recordKey, vertex digest.Digest, outputs []R) node[R] {
	if k.transient {
		k.digest = vertex
	}
	return node[R]{Record[R]{k.digest, outputs}, k.transient}
}

func values[R any](in []input[R]) []R {
	list := make([]R, len(in))
	for i := range in {
		list[i] = in[i].value
	}
	return list
}
