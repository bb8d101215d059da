# teu: one static binary for the whole life of a container image.
# `make quickstart` shows it at work, `make test` tests it. Both need root and nothing else.

GO      ?= go
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=auto -ldflags='-s -w'
KEEPER  := cmd/teu/teu-keeper
OUTLET  := cmd/teu/teu-outlet.zst
WHOLE   := cmd/teu/teu-whole.zst
PORTER  := cmd/teu/teu-porter.zst
# Runs on this machine also where GOARCH names another.
PACK    := GOARCH= $(GO) run ./cmd/teu/pack
# Sources that the binaries are made of; go itself decides what to compile anew.
.PHONY: help build keeper outlet setup quickstart test test-root lint fuzz bench soak clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

build: keeper outlet ## bin/teu, static and reproducible
	$(BUILD) -o bin/teu-whole ./cmd/teu
	@[ $(WHOLE) -nt bin/teu-whole ] || $(PACK) bin/teu-whole $(WHOLE)
	$(BUILD) -ldflags='-s -w -E teu_slack' -tags porter -o bin/teu-porter ./cmd/teu
	@[ $(PORTER) -nt bin/teu-porter ] || $(PACK) bin/teu-porter $(PORTER)
	$(BUILD) -ldflags='-s -w -E teu_slack' -tags front -o bin/teu-front ./cmd/teu
	@[ bin/teu -nt bin/teu-front ] || { dd if=bin/teu-front of=bin/teu.new bs=4M status=none && chmod 755 bin/teu.new && mv -f bin/teu.new bin/teu; }
# The linker writes a program page by page, and so the kernel keeps it in single pages. Of a file that was written in large
# pieces it maps more at once: each start of the copy takes a sixth less processor time.

keeper: # the supervisor that bin/teu carries inside
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags='-s -w -buildid= -E teu_start' -o $(KEEPER) ./cmd/teu-keeper

outlet: # the way out of users' networks, likewise
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags='-s -w -buildid=' -o bin/teu-outlet ./cmd/teu-outlet
	@[ $(OUTLET) -nt bin/teu-outlet ] || $(PACK) bin/teu-outlet $(OUTLET)

setup: # the Debian packages that tests and benchmarks use
	@test/setup.sh

quickstart: build ## build, push, pull and run examples/hello with a registry of its own
	@examples/hello/quickstart.sh bin/teu

test: setup lint ## everything: unit tests, root tests, end-to-end scripts, interop
	TEU_TEST_ROOT=1 TEU_TEST_BUILT=1 $(GO) run ./test/suite -skips 0 -timeout 20m ./...

test-root: keeper outlet ## unit and root tests without the end-to-end scripts
	TEU_TEST_ROOT=1 $(GO) run ./test/suite -short -timeout 15m ./...

lint: build ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./... && $(GO) vet -tags front ./cmd/teu && $(GO) vet -tags porter ./cmd/teu
	GOARCH=arm64 $(GO) vet ./... && GOARCH=arm64 $(GO) vet -tags front ./cmd/teu
	$(GO) tool staticcheck ./...
	@! $(GO) list -deps -tags front ./cmd/teu | grep -E '^(net/http|crypto/tls|github.com/moby/buildkit/.*|google.golang.org/grpc)$$' || { echo "the front of teu links what only its whole may"; exit 1; }
	@! $(GO) list -deps -tags porter ./cmd/teu | grep -E '^(github.com/moby/buildkit/.*|google.golang.org/.*|github.com/minio/.*)$$' || { echo "the porter of teu links what only its whole may"; exit 1; }

fuzz: keeper outlet ## every fuzz target for FUZZTIME (default 10s) each
	@test/fuzz.sh $${FUZZTIME:-10s}

bench: build ## the figures of docs/benchmarks.md, against peers
	@bench/run.sh

soak: build setup ## the long runs: chaos and fuzzing at full counts
	TEU_TEST_ROOT=1 TEU_TEST_BUILT=1 TEU_SOAK=1 TEU_TEST_KILLS=200 $(GO) run ./test/suite -timeout 6h ./...
	@test/fuzz.sh $${FUZZTIME:-1h}

clean: ## remove what make made
	rm -rf bin $(KEEPER) $(OUTLET) $(WHOLE) $(PORTER)
