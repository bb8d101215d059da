// Command teu-outlet connects the network of an ordinary user's containers to other hosts.
// It is embedded in teu; it is of no use on its own.
package main

import (
	"os"

	"github.com/teu-dev/teu/runner/outlet"
)

func main() { os.Exit(outlet.Main(os.Args[1:])) }
