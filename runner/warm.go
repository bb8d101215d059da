package runner

// WarmUp begins, beside whatever the caller does next, what every start needs: the sealed
// keeper. It may be called any number of times; Start waits for it.
func (e *Engine) WarmUp() {
	e.warmOnce.Do(func() {
		e.warming.Go(func() { e.Keeper() }) // Start asks again, and sees the error
	})
}
