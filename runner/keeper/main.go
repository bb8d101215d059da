package keeper

// Main is the keeper process; it returns its exit code. args are the process's own
// without its name.
func Main(args []string) int { panic("todo") }
