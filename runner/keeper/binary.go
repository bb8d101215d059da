package keeper

import "os"

// Binary is the keeper's executable in a sealed memfd: nobody can change what keepers
// execute, not even a container that gets hold of /proc/PID/exe (CVE-2019-5736).
type Binary struct{ f *os.File }

// Seal copies an executable into a memfd and seals it.
func Seal(elf []byte) (*Binary, error) { panic("todo") }

// Close releases the memfd. Running keepers keep theirs.
func (b *Binary) Close() error { panic("todo") }
