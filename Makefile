# The front door: `make` lists what it can do.

.DEFAULT_GOAL := help
# Two flavours built at once would only compete for the processors.
.NOTPARALLEL:

# The engine of the programs and the specs: luajit, lua5.1, lua5.3 or lua5.4.
LUA ?= luajit
# The real Consul that they run against: 1.21 or 1.8.
CONSUL ?=

FLAVOURS := luajit 5.1 5.3 5.4
feature-luajit := luajit
feature-5.1 := lua51
feature-5.3 := lua53
feature-5.4 := lua54

# luajit → luajit, lua5.4 → 5.4, wherever the program is.
flavour = $(patsubst lua5.%,5.%,$(patsubst luajit%,luajit,$(notdir $(LUA))))
# These would win over the two that are set here.
unexport LUA_PATH_5_3 LUA_CPATH_5_3 LUA_PATH_5_4 LUA_CPATH_5_4
# With QUICK=1 the module is built in a minute, not optimised, in a folder of its own.
modules = target/$(if $(QUICK),lua-quick,lua)
lua_env = LUA_PATH="./lua/?.lua;./etcd/lua/?.lua;./resty/lua/?.lua;;" LUA_CPATH="./$(modules)/$(flavour)/?.so;;"

# Those of `make test`, and those that `make test-all` adds. First those without cargo, whose builds wait for each other.
QUICK_LINTS := fmt words commits luacheck annotations shellcheck gofmt clippy rustdoc
ADDED_LINTS := deny clippy-5.1 clippy-5.3 clippy-5.4
LINTS := $(QUICK_LINTS) $(ADDED_LINTS)

# What is built for the tests in Rust, and for their lints.
RUST := --workspace --no-default-features --features consul-cluster/sabotage,consul-replication/sabotage,consul_ffi/luajit

.PHONY: help
## help: lists the targets
help:
	@awk -F ': ' '/^## / { printf "  make %s\n      %s\n", substr($$1, 4), $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
## deps: installs the programs that the targets need
deps:
	scripts/install-deps.sh

.PHONY: build $(FLAVOURS:%=build-%)
## build: builds the module for LuaJIT, Lua 5.1, Lua 5.3 and Lua 5.4 into target/lua
build: $(FLAVOURS:%=build-%)

## build-luajit|5.1|5.3|5.4 [QUICK=1]: builds one of them; with QUICK not optimised, in a minute, into target/lua-quick
$(FLAVOURS:%=build-%): build-%:
	@QUICK=$(QUICK) rockspec/build.sh $(feature-$*) $(modules)/$*/consul_ffi.so

# Each runs a file of examples: demo-cluster is examples/demo_cluster.lua.
PROGRAMS := demo demo-cluster consul-simulation-demo test-consul-integration test-consul-cluster \
	consul-production-example test-tsdb-cluster debug-consul-ffi ha-cluster-example

.PHONY: $(PROGRAMS) $(PROGRAMS:%=say-%) demo-deps consul-sim
## demo [LUA=lua5.4] [CONSUL=1.21]: runs the demo, simulated or on a real Consul
## demo-cluster [LUA=lua5.4] [CONSUL=1.21]: runs the demo of a cluster and kills its leader
## consul-simulation-demo [LUA=lua5.4] [CONSUL=1.21]: runs an old program (a quote, a service, a session, a cluster)
## test-consul-integration [LUA=lua5.4] [CONSUL=1.21]: runs an old program (three nodes in one process)
## test-consul-cluster [LUA=lua5.4] [CONSUL=1.21]: runs an old program (three processes; the leader is killed)
## consul-production-example [LUA=lua5.4] [CONSUL=1.21]: runs an old program (a manager, quotes on three nodes)
## test-tsdb-cluster [LUA=lua5.4] [CONSUL=1.21]: runs an old program (a hash ring, three nodes of a database)
## debug-consul-ffi [LUA=lua5.4] [CONSUL=1.21]: runs an old program (every call of the client)
## ha-cluster-example [LUA=lua5.4] [CONSUL=1.21]: runs an old program (one node with the options of the old documentation)
$(PROGRAMS): QUICK = 1
$(PROGRAMS): %: say-% demo-deps build-$(flavour)
	@$(lua_env) $(consul) $(LUA) examples/$(subst -,_,$@).lua

$(PROGRAMS:%=say-%): say-%:
	@echo "make $*: builds the module for $(LUA), which takes a minute and a half the first time and seconds later, then runs" \
		"examples/$(subst -,_,$*).lua$(if $(CONSUL),,$(CONSUL_HTTP_ADDR:%= on the Consul at CONSUL_HTTP_ADDR, %))"

.PHONY: demo-tsdb tsdb-deps
## demo-tsdb [LUA=lua5.4] [CONSUL=1.21] [POINTS=100000] [SHARDS=1024]: runs a database on processes that are killed, restarted, join and leave
demo-tsdb: demo-deps build-$(flavour)
	@$(lua_env) $(consul) $(LUA) examples/tsdb/demo.lua $(or $(POINTS),100000) $(SHARDS)

.PHONY: demo-gateway gateway-deps
## demo-gateway: runs nginx as a gateway to two services; an instance is killed, then Consul, and nginx is restarted without it
demo-gateway: QUICK = 1
demo-gateway: gateway-deps build-luajit consul-sim
	@LUA_PATH="./lua/?.lua;;" LUA_CPATH="./$(modules)/luajit/?.so;;" examples/openresty/demo.sh

gateway-deps:
	@scripts/install-deps.sh gateway

consul = $(if $(CONSUL),scripts/with-consul.sh $(CONSUL))
# The programs ask whether it is set. An empty one names no Consul.
ifeq ($(CONSUL_HTTP_ADDR),)
unexport CONSUL_HTTP_ADDR
endif

# These start processes, which use consul-sim unless a Consul is configured; CONSUL_SIM is a program that is
# built already.
IN_PROCESSES := demo-cluster test-consul-cluster demo-tsdb
$(IN_PROCESSES): consul-sim
$(IN_PROCESSES): consul = $(if $(CONSUL),scripts/with-consul.sh $(CONSUL),$(if $(CONSUL_HTTP_ADDR),,\
	CONSUL_BIN="$(or $(CONSUL_SIM),$(cargo_folder)/debug/consul-sim)" scripts/with-consul.sh 1.21))

# Whatever the user's configuration of cargo says.
cargo_folder = $(or $(CARGO_TARGET_DIR),target)

consul-sim:
	@$(if $(CONSUL)$(CONSUL_HTTP_ADDR)$(CONSUL_SIM),,env -u CARGO_BUILD_TARGET CARGO_TARGET_DIR="$(cargo_folder)" \
		cargo build --quiet --package consul-sim --bin consul-sim)

demo-deps:
	@LUA="$(LUA)" scripts/install-deps.sh demo

demo-tsdb test-tsdb-cluster: tsdb-deps

tsdb-deps:
	@LUA="$(LUA)" scripts/install-deps.sh tsdb

.PHONY: test test-all test-added
## test: what to run before each commit (minutes): lint, the tests in Rust, the Lua specs; see scripts/test.sh --help
test:
	@scripts/test.sh

## test-all: the same and more (half an hour): real servers, all engines, other clients, processes, 500 histories
test-all:
	@scripts/test.sh all

# What the second adds to the first.
test-added:
	@scripts/test.sh added

.PHONY: soak
## soak [STEPS="recipes lab"]: tests for longer (some hours); see scripts/soak.sh --help. `make soak lab` is that step alone
soak:
	@scripts/soak.sh $(STEPS) $(filter lab,$(MAKECMDGOALS))

.PHONY: lab
lab: soak

.PHONY: mutants
## mutants [SHARD=0/10] [SAMPLE=300] [SEED=0]: changes the code in small ways and looks whether the fast tests notice
mutants:
	@SHARD="$(SHARD)" SAMPLE="$(SAMPLE)" SEED="$(SEED)" scripts/mutants.sh

.PHONY: dst
## dst [SEEDS=500] [SEED=17] [ARGS=clusters]: simulates histories of locks and clusters under faults, or prints one
dst:
	$(if $(SEED),SEED=$(SEED)) SEEDS=$(or $(SEEDS),500) CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test --quiet --package consul-cluster --features sabotage --test simulation $(if $(ARGS),-- $(ARGS))

.PHONY: model
## model: searches the model of replicated shards to its end, in chains of four changes (an hour, 8 GB)
model:
	CARGO_PROFILE_DEV_OPT_LEVEL=2 cargo test --quiet --package consul-replication --features sabotage \
		--test model -- --ignored --nocapture

.PHONY: spec
## spec [LUA=lua5.4] [CONSUL=1.21] [ARGS=--tags=smoke]: runs the Lua specs alone
spec: $(if $(BUILT),,build-$(flavour))
	bash -c 'source scripts/lib.sh; exec "$$@"' spec \
		$(if $(CONSUL),scripts/with-consul.sh $(CONSUL) env,env -u CONSUL_HTTP_ADDR) $(lua_env) busted --lua=$(LUA) $(ARGS)

.PHONY: lint lint-quick lint-added $(LINTS:%=lint-%)
## lint: checks format, lints, documentation and wording of the Rust, Lua, shell and Go code and of the docs
lint: $(LINTS:%=lint-%)

lint-quick:
	@echo $(QUICK_LINTS:%=lint-%)

lint-added:
	@echo $(ADDED_LINTS:%=lint-%)

lint-fmt:
	cargo fmt --check

# Nothing is linked, so that the module can be for an engine.
lint-clippy:
	cargo clippy --all-targets $(RUST) -- -D warnings

$(FLAVOURS:%=lint-clippy-%): lint-clippy-%:
	cargo clippy --lib --no-default-features --features $(feature-$*) -- -D warnings

lint-rustdoc:
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --lib $(RUST)

lint-luacheck:
	@luacheck --quiet --no-color .

lint-deny:
	@if command -v cargo-deny >/dev/null; then cargo deny check; else \
		echo "SKIPPED: known mistakes of the crates: cargo-deny is missing (cargo install cargo-deny --locked)"; fi

lint-commits:
	@scripts/lint-commits.sh

lint-annotations:
	@scripts/lint-annotations.sh

# Prints the files with this ending, without what is built.
files = find * -name target -prune -o -name '*.$1' -print

lint-shellcheck:
	@if command -v shellcheck >/dev/null; then \
		SHELLCHECK_OPTS= shellcheck --norc .ci/run $$($(call files,sh)); \
	else \
		echo "SKIPPED: there is no shellcheck"; \
	fi

lint-gofmt:
	@if ! command -v gofmt >/dev/null; then \
		echo "SKIPPED: there is no gofmt"; \
	else \
		unformatted=$$(gofmt -l $$($(call files,go))) || exit; \
		[ -z "$$unformatted" ] || { echo "gofmt -w: $$unformatted"; exit 1; }; \
	fi

lint-words:
	@scripts/lint-words.sh .

.PHONY: bench
## bench: runs the benchmarks, other clients included (ten minutes); fails when a bound does not hold
bench:
	scripts/install-deps.sh bench
	cargo bench --no-default-features --bench simulate --bench shard_map --bench data_plane
	benches/ring.sh
	LUA_PATH='lua/?.lua;;' luajit benches/balancer.lua
	benches/consul-sim.sh
	benches/gateway.sh
	benches/nginx-calls.sh
	benches/clients.sh
	benches/replicated.sh
	benches/stores.sh
	luajit benches/plots.lua

.PHONY: bench-failover
## bench-failover [ROUNDS=10] [GO_ROUNDS=3]: measures how long a lock has no holder after its holder is gone
bench-failover:
	benches/failover.sh $(or $(ROUNDS),10) $(or $(GO_ROUNDS),3)

.PHONY: docs
## docs: generates docs/api.md, docs/api-endpoints.md, docs/quick-reference.md, docs/faq.md, docs/configuration.md, the options in docs/production.md, lua/meta and the Rust documentation
docs:
	cargo xtask reference
	UPDATE_REFERENCE=1 $(MAKE) spec ARGS=spec/consul_production/options_spec.lua
	cargo doc --no-deps --workspace --exclude consul_ffi --lib

.PHONY: docs-screenshots
## docs-screenshots: makes the pictures of the status server's page in docs/images, with Chromium
docs-screenshots: build-luajit
	scripts/install-deps.sh page
	mkdir -p docs/images
	SCREENSHOTS="$(abspath docs/images)" cargo test --quiet --no-default-features --test programs \
		-- page::screenshots

.PHONY: golden
## golden: writes tests/golden for the version in Cargo.toml, which later builds must read
golden:
	@! git rev-parse -q --verify "refs/tags/v$(version)" >/dev/null 2>&1 || { \
		echo "v$(version) is released, and its golden files stay as they are: raise the version in Cargo.toml first" >&2; \
		exit 1; \
	}
	WRITE_GOLDEN=1 cargo test --quiet --package consul-cluster --test cluster of_each_release

.PHONY: dist dist-try
## dist [TARGETS=x86_64-unknown-linux-musl] [ONLY="luajit consul-sim"] [QUICK=1]: makes the files for download into target/dist, for other machines, too (an hour)
dist:
	@scripts/dist.sh $(TARGETS)

## dist-try: runs what `make dist` has made, also in a Debian 11 and by qemu
dist-try:
	@scripts/dist-try.sh

.PHONY: publish
# Of the workflow alone: attaches what is made to the release of the tag, and uploads rocks, wheel and npm packages, each if
# there is a key.
publish:
	cd target/dist && sha256sum -- *.tar.gz >SHA256SUMS
	gh release create "v$(version)" --verify-tag --title "v$(version)" --notes-file CHANGELOG.md \
		target/dist/* target/rocks/*.rock target/rocks/*.rockspec target/packages/*.whl target/packages/*.tgz
	@[ -z "$$LUAROCKS_KEY" ] || for rock in target/rocks/*.rock; do \
		luarocks upload --force --api-key="$$LUAROCKS_KEY" "$${rock%.linux-*}.rockspec" "$$rock" || exit; \
	done
	@[ -z "$$PYPI_TOKEN" ] || MATURIN_PYPI_TOKEN="$$PYPI_TOKEN" target/packages/python/bin/maturin upload --skip-existing \
		target/packages/*.whl
	@[ -z "$$NPM_TOKEN" ] || { npm config set "$$(npm config get registry | sed 's/^[a-z]*://'):_authToken=$$NPM_TOKEN" && \
		for package in target/packages/*.tgz; do npm publish --access public "$$package" || exit; done; }

.PHONY: macos-check
## macos-check: compiles everything for macOS, without linking it
macos-check:
	@scripts/dist.sh macos-check

.PHONY: wheel npm image packages
# Of the workflow alone.
packages: wheel npm

## wheel|npm|image: packs consul-sim for Python or for Node into target/packages, or for containers (after `make dist`)
wheel npm image:
	@scripts/packages.sh $@

.PHONY: rocks install
## rocks: packs a rock of the module for each version of Lua into target/rocks, which needs no Rust where it is installed
rocks:
	@scripts/rocks.sh

## install [LUA=lua5.4] [ARGS=--local]: builds and packs the module for one engine, then installs it with luarocks
install:
	@scripts/rocks.sh $(flavour)
	luarocks $(place) install $(rock)
	@scripts/installed.sh $(rock) $(place)

place = --lua-version=$(patsubst luajit,5.1,$(flavour)) $(ARGS)
version = $(shell sed -n '/^version/{s/.*"\(.*\)"/\1/p;q}' Cargo.toml)
revision = $(subst .,,$(patsubst luajit,5.1,$(flavour)))
rock = target/rocks/consul_ffi-$(version)-$(revision).linux-*.rock

.PHONY: release release-check release-dry
## release: packs, tests and tags the version in Cargo.toml (an hour); see scripts/release.sh
release:
	@scripts/release.sh

## release-check: looks whether all files are those of the version
release-check:
	@scripts/release.sh --check

## release-dry: makes a release in a clone, without its tests, and removes it
release-dry:
	@scripts/release.sh --dry

.PHONY: clean
## clean: removes all build output
clean:
	cargo clean
