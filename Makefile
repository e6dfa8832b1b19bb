# The commands of the house. `make demo` runs the main job, `make test` is what must pass.
# Each does its own set-up; run again, it is quick.

SHELL := /bin/bash
CARGO ?= cargo
BIN := target/debug/farshore
# Simulator seeds of the quick tier; `make soak SEEDS=0..100000` for more.
CHECK_SEEDS ?= 0..200
SEEDS ?= 0..20000

# The dashboard. Without Node the program is built without its page, and says so where the page would be.
DASHBOARD := web/dashboard
PAGE := $(DASHBOARD)/dist/page/index.html
PAGE_SOURCES := $(shell find $(DASHBOARD)/src $(DASHBOARD)/public -type f ! -name schema.d.ts) \
    $(addprefix $(DASHBOARD)/,index.html openapi.json package-lock.json tsconfig.json vite.config.ts)

.PHONY: help demo build dashboard api-types check test soak boot bench setup fmt clean-rigs

help:
	@echo "make demo    a working system with a protected machine under live load (no root, no apt)"
	@echo "make check   format, lint, unit tests, $(CHECK_SEEDS) simulator seeds (warm: 2 minutes)"
	@echo "make test    everything the project promises, against real clients (installs what is missing)"
	@echo "make soak    the same at full size, for hours"
	@echo "make boot    a Debian guest is protected, and its points start again (root, minutes)"
	@echo "make bench   measurements, as ratios in one run"

build: dashboard
	$(CARGO) build

ifeq ($(shell command -v npm),)
dashboard:
	@echo "npm is not there: the program is built without its dashboard (install Node 20.19 or later, and run this again)"
else
dashboard: $(PAGE)
endif

$(DASHBOARD)/node_modules/.package-lock.json: $(DASHBOARD)/package-lock.json
	cd $(DASHBOARD) && npm ci --no-fund --no-audit
	@touch $@

$(PAGE): $(DASHBOARD)/node_modules/.package-lock.json $(PAGE_SOURCES)
	cd $(DASHBOARD) && npm run build --silent

# After a change of the API: its document as the dashboard knows it. The dashboard's compiler says what no longer fits.
api-types:
	FARSHORE_WRITE=1 $(CARGO) test --workspace --lib the_dashboard_is_built_against_the_api_that_is_served

demo: build
	$(BIN) demo

fmt:
	$(CARGO) fmt --all

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) test --workspace --lib --bins
	FARSHORE_SEEDS=$(CHECK_SEEDS) $(CARGO) test --test house --test simulation

setup:
	scripts/setup.sh

test: setup dashboard
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	scripts/test.sh

soak: setup dashboard
	FARSHORE_SOAK=1 FARSHORE_SEEDS=$(SEEDS) scripts/test.sh

# A virtual machine writes through the agent's export; its points start from a served export and from a VHD.
boot: dashboard
	scripts/setup.sh guest
	scripts/guest.sh
	$(CARGO) test --test boot -- --ignored --nocapture

# Figures as tables, and as JSON under target/bench. QUICK=1: a smoke test of a minute, no bar is held.
bench: setup
	$(if $(QUICK),FARSHORE_BENCH_QUICK=1) $(CARGO) bench --no-fail-fast --bench sealing --bench first_byte --bench write_path \
		--bench replication --bench restore --bench under_load --bench console --bench idle_machines --bench merging --bench long_history --bench upload
