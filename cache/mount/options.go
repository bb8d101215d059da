package mount

// Options are the parameters of the mount besides its directories, in the order they are
// set, for those who make the mount in another process. An empty value is a flag.
func (o Overlay) Options() [][2]string { return o.options() }
