package main

import _ "embed"

// keeperELF is the supervisor every container gets (cmd/teu-keeper), built by `make keeper`.
//
//go:embed teu-keeper
var keeperELF []byte
