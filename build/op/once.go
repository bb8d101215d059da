package op

import "sync"

// once is a value that is made at most once; one whose making failed is made again.
type once[T any] struct {
	mu    sync.Mutex
	done  bool
	value T
}

func (o *once[T]) get(make func() (T, error)) (T, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.done {
		return o.value, nil
	}
	v, err := make()
	if err == nil {
		o.value, o.done = v, true
	}
	return v, err
}

// onces are such values by key. The zero value has none yet.
type onces[K comparable, T any] struct {
	mu  sync.Mutex
	all map[K]*once[T]
}

func (o *onces[K, T]) get(key K, make func() (T, error)) (T, error) {
	o.mu.Lock()
	if o.all == nil {
		o.all = map[K]*once[T]{}
	}
	one := o.all[key]
	if one == nil {
		one = &once[T]{}
		o.all[key] = one
	}
	o.mu.Unlock()
	return one.get(make)
}

// take returns those that were made, and forgets all.
func (o *onces[K, T]) take() (made []T) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, one := range o.all {
		if one.done {
			made = append(made, one.value)
		}
	}
	o.all = nil
	return made
}
