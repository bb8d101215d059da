// Command teu-keeper supervises one container. It is embedded in teu, which executes it
// from memory; it is of no use on its own.
package main

import (
	"os"

	"github.com/teu-dev/teu/runner/keeper"
)

func main() { os.Exit(keeper.Main(os.Args[1:])) }
