# The commands of the house. `make demo` runs the main job, `make test` is what must pass.
# Each does its own set-up; run again, it is quick.

SHELL := /bin/bash
CARGO ?= cargo
BIN := target/debug/farshore
# Simulator seeds of the quick tier; `make soak SEEDS=0..100000` for more.
CHECK_SEEDS ?= 0..200
SEEDS ?= 0..20000

.PHONY: help demo build check test soak bench setup fmt clean-rigs

help:
	@echo "make demo    a working system with a protected machine under live load (no root, no apt)"
	@echo "make check   format, lint, unit tests, $(CHECK_SEEDS) simulator seeds (warm: 2 minutes)"
	@echo "make test    everything the project promises, against real clients (installs what is missing)"
	@echo "make soak    the same at full size, for hours"
	@echo "make bench   measurements, as ratios in one run"

build:
	$(CARGO) build

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

test: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	scripts/test.sh

soak: setup
	FARSHORE_SOAK=1 FARSHORE_SEEDS=$(SEEDS) scripts/test.sh

bench: setup
	$(CARGO) bench --bench sealing --bench nbd_fio --bench first_byte
