#!/usr/bin/env bash
# The tests, one tier after the other, the quick ones first. Prints what was skipped for want of a privilege on its last line.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"
export FARSHORE_SKIPS="$PWD/target/skipped.txt"
mkdir -p target && : > "$FARSHORE_SKIPS"

# Benches are for `make bench`.
cargo test --workspace --lib --bins --tests --no-fail-fast
# In soak whole installations once more, with the vault in Azure's emulator.
if [[ -n ${FARSHORE_SOAK:-} ]]; then
  FARSHORE_TEST_VAULT=azurite cargo test --test system --no-fail-fast
fi

if [[ -s $FARSHORE_SKIPS ]]; then
  echo "skipped for want of a privilege ($(sort -u "$FARSHORE_SKIPS" | wc -l)): $(sort -u "$FARSHORE_SKIPS" | paste -sd ';')"
else
  echo "skipped: none"
fi
