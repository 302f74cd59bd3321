# Each target says below what it is for; `make help` lists them.
SHELL := /bin/sh
MAKEFLAGS += -j2
.DEFAULT_GOAL := help
.PHONY: help setup build examples run test escape test-vm chaos lint fmt fuzz bench-seccomp bench-start bench-ipc flat bench-profiles bench-quotas clean need-go cordon cordond digest installed

FUZZTIME ?= 10s
CHAOS_POINTS ?= 2000
STARTS ?= 10000
MODEL_STEPS ?= 1000000
OUTAGES ?= 200
CONTINUITY_ROUNDS ?= 100
GOLANGCI_LINT := v2.15.0

# The command line is pure Go. The daemon links libseccomp; both are static, so
# that a host needs neither Go nor a library.
PURE := CGO_ENABLED=0 go build -trimpath -tags 'netgo osusergo'
CGO  := CGO_ENABLED=1 go build -trimpath -tags 'netgo osusergo' -ldflags '-linkmode external -extldflags -static'

# The plugins that are installed from a lock file; node is what runs them.
PLUGINS := node everything filesystem bash-language-server

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Install what this machine lacks (Debian: by apt-get, as root)
	@.ci/setup

build: cordon cordond ## Build bin/cordon and bin/cordond

cordon: need-go
	$(PURE) -o bin/cordon ./cmd/cordon

cordond: setup cordon
	$(CGO) -o bin/cordond ./cmd/cordond

need-go:
	@.ci/setup go

examples: installed digest ## Install the example plugins from their lock files

installed: setup
	@printf 'examples/%s\n' $(PLUGINS) | xargs -n 1 -P 2 .ci/install-example

digest: need-go
	@$(PURE) -o examples/go/bin/digest ./examples/go

run: build examples ## Show the main job: real plugins, hostile plugins, real walls (root)
	@mkdir -p .build
	@$(PURE) -o .build/demo ./examples/demo
	@.build/demo

test: build examples ## Run every test that this machine can run (root for the walls)
	@.ci/setup test
	@.ci/setup vm
	@mkdir -p .build
	@$(PURE) -o .build/tier ./.ci/tier
	go vet ./... ./.ci/tier
	@.build/tier pure -timeout 15m -count=1 -race -shuffle=on $$(go list ./... ./.ci/tier | grep -v /integration)
	@.build/tier walls -timeout 10m -count=1 -tags walltest -run TestEachWallAlone ./supervisor/launch
	@.build/tier escape -timeout 15m -count=1 -tags walltest ./integration/escape
	@CORDON_TEST_RUNTIMES=all .build/tier namespaces -timeout 30m -count=1 -shuffle=on ./integration/...
	@$(PURE) -o .build/vmrun ./integration/vm
	@.build/tier vm -- .build/vmrun

escape: need-go ## Try to get out: the escape corpus, with its table (root)
	@mkdir -p .build
	@CORDON_ESCAPE_REPORT=$(CURDIR)/.build/escape.jsonl go test -v -count=1 -timeout 10m -tags walltest ./integration/escape

test-vm: build examples ## Run the suite on Debian's 6.1 and 6.12 kernels, cgroup v2 alone, in QEMU
	@.ci/setup vm
	@mkdir -p .build
	@$(PURE) -o .build/tier ./.ci/tier
	@$(PURE) -o .build/vmrun ./integration/vm
	@.build/tier vm -- .build/vmrun

chaos: build ## Kill, tear, fill up and starve a loaded daemon at CHAOS_POINTS (2000) points (root)
	CORDON_CHAOS_POINTS=$(CHAOS_POINTS) go test -count=1 -timeout 60m -v -run TestChaos ./integration

.PHONY: continuity
continuity: build ## Kill, and upgrade, a loaded daemon CONTINUITY_ROUNDS (100) times: plugins keep their processes (root)
	CORDON_CONTINUITY_ROUNDS=$(CONTINUITY_ROUNDS) go test -count=1 -timeout 60m -v -run 'TestPluginsOutlive|TestUpgrade' ./integration

.PHONY: model
model: need-go ## Hold a plugin's actor against its reference model for MODEL_STEPS (1000000)
	CORDON_MODEL_STEPS=$(MODEL_STEPS) go test -count=1 -timeout 60m -v -run TestModel ./supervisor

.PHONY: outages
outages: setup ## Cut the power of a virtual machine whose disk forgets OUTAGES (200) times: nothing promised is lost (root)
	@.ci/setup vm
	CORDON_OUTAGES=$(OUTAGES) go test -count=1 -timeout 6h -v -run TestOutages ./integration/vm

lint: ## Run golangci-lint, pinned; the first time builds it (minutes)
	@.ci/lint $(GOLANGCI_LINT) run ./... ./.ci/tier

fmt: ## Format the Go code with gofumpt
	@.ci/lint $(GOLANGCI_LINT) fmt ./... ./.ci/tier

bench-ipc: setup need-go ## Measure a call beside a bare ping-pong, ttrpc, gRPC, go-plugin and net/rpc, in turns
	@.ci/install-example examples/node
	@mkdir -p .build
	@cd integration/bench/ipc && go build -o ../../../.build/bench-ipc .
	@.build/bench-ipc

bench-seccomp: setup need-go ## Measure what the filters cost, in one interleaved run
	@mkdir -p .build
	@CGO_ENABLED=1 go build -trimpath -o .build/bench-seccomp ./integration/bench/seccomp
	@.build/bench-seccomp

flat: setup ## Start and stop STARTS (10000) plugins and see that nothing grows (root)
	CORDON_TEST_STARTS=$(STARTS) go test -count=1 -timeout 60m -v -run 'TestStartsAndStopsAreFlat|TestManyStartsAtOnce' ./supervisor/launch

bench-start: build ## Measure a start against other launchers and a bare C program (root)
	@.ci/setup bench
	@mkdir -p .build
	@CGO_ENABLED=1 go build -trimpath -o .build/bench-start ./integration/bench/start
	@.build/bench-start

bench-quotas: build ## Measure what attacks cost a neighbour, and how fast an OOM kill is on the disk (root)
	@mkdir -p .build
	@$(PURE) -o .build/bench-quotas ./integration/bench/quotas
	@.build/bench-quotas

.PHONY: bench-quotas-vm
bench-quotas-vm: build ## Measure the same on Debian's 6.1 and 6.12 kernels, by the guests' own clocks
	@.ci/setup vm
	@mkdir -p .build
	@$(PURE) -o .build/vmrun ./integration/vm
	@.build/vmrun -bench '-kills 5 -calls 200 -rounds 2'

bench-profiles: need-go ## Measure what reading, resolving and planning a profile takes
	@mkdir -p .build
	@$(PURE) -o .build/bench-profiles ./integration/bench/profiles
	@.build/bench-profiles

.PHONY: bench-violation
bench-violation: build ## Measure a violation until contained, persisted and dead, beside bare ones (root)
	@mkdir -p .build
	@$(PURE) -o .build/bench-violation ./integration/bench/violation
	@.build/bench-violation

.PHONY: bench-fleet
bench-fleet: build ## Measure a daemon with 1000 plugins of which 100 crash in loops (root)
	@mkdir -p .build
	@$(PURE) -o .build/bench-fleet ./integration/bench/fleet
	@.build/bench-fleet

.PHONY: bench-memory
bench-memory: build ## Measure what 1000 idle plugins cost in memory, time to start and wake-ups (root)
	@mkdir -p .build
	@$(PURE) -o .build/bench-fleet ./integration/bench/fleet
	@.build/bench-fleet -memory

fuzz: ## Run every fuzz target for FUZZTIME (10s) each
	@.ci/fuzz $(FUZZTIME)

clean: ## Remove what the other targets made here
	rm -rf bin .build examples/go/bin
	@for plugin in $(PLUGINS); do rm -rf examples/$$plugin/node_modules; done

.PHONY: bench-capability
bench-capability: need-go ## Measure broker, relay and revocation beside what the kernel gives bare (root)
	@mkdir -p .build
	@$(PURE) -o .build/bench-capability ./integration/bench/capability
	@.build/bench-capability

LIVES ?= 10000

.PHONY: soak
soak: setup ## Break the protocol LIVES (10000) times in every way, and see the daemon no larger (root; hours)
	CORDON_SOAK=$(LIVES) go test -count=1 -timeout 12h -v -run 'TestSoak$$' ./integration

IPC_FUZZ_MINUTES ?= 30

.PHONY: fuzz-ipc
fuzz-ipc: ## Fuzz framing, envelope, phases and contracts for IPC_FUZZ_MINUTES (30) in all
	@.ci/fuzz --in-all $$(($(IPC_FUZZ_MINUTES) * 60)) ipc supervisor/contract
