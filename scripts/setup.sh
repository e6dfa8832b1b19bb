#!/usr/bin/env bash
# Installs what the tests need and the machine lacks: says what, then does it (root, or sudo where there is one).
# Starts no service and leaves none. A missing privilege is not hidden: the tests that need it say so.
# With the word `guest`: also what the virtual machines of `make boot` need.
set -euo pipefail
cd "$(dirname "$0")/.."

# command : Debian package that brings it
needs=(
  "qemu-io:qemu-utils" "qemu-storage-daemon:qemu-utils" "nbdinfo:libnbd-bin" "nbdcopy:libnbd-bin" "nbdfuse:libnbd-bin"
  "nbdkit:nbdkit" "fio:fio" "restic:restic" "mkfs.xfs:xfsprogs" "xfs_repair:xfsprogs" "mke2fs:e2fsprogs" "e2fsck:e2fsprogs"
  "sqlite3:sqlite3" "fusermount3:fuse3" "losetup:mount" "curl:curl" "openssl:openssl" "chromium:chromium"
  "promtool:prometheus"
)
if [[ ${1:-} == guest ]]; then
  needs+=("qemu-system-x86_64:qemu-system-x86" "mmdebstrap:mmdebstrap" "sgdisk:gdisk" "grub-mkimage:grub-common")
fi
PATH="$PATH:/usr/sbin:/sbin"
missing=()
for need in "${needs[@]}"; do
  command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
/usr/bin/python3 -c 'import nbd' 2>/dev/null || missing+=(python3-libnbd)
/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
[[ ${1:-} != guest || -e /usr/lib/grub/i386-pc/modinfo.sh ]] || missing+=(grub-pc-bin)

if ((${#missing[@]})); then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  echo "setup: installing ${missing[*]}"
  as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || { echo "setup: not root and no sudo: install them by hand, then run again"; exit 1; }
    as_root=(sudo)
  fi
  export DEBIAN_FRONTEND=noninteractive
  # PostgreSQL's package would make and start a cluster of its own.
  if [[ " ${missing[*]} " == *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
    "${as_root[@]}" mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  # Packages that bring a server shall not start it.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
  fi
  apt=("${as_root[@]}" apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0)
  "${apt[@]}" update
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
else
  echo "setup: nothing is missing"
fi

# What the API's tests generate requests with, in an environment of its own.
fuzz=target/venv/schemathesis
if [[ ! -x $fuzz/bin/schemathesis ]]; then
  echo "setup: making $fuzz"
  python3 -m venv "$fuzz"
  "$fuzz/bin/pip" install --quiet --disable-pip-version-check 'schemathesis==4.32.5'
fi

# The browser tests' driver. Chromium is Debian's; nothing else is downloaded.
if [[ ! -e tests/browser/node_modules/.package-lock.json || tests/browser/package-lock.json -nt tests/browser/node_modules/.package-lock.json ]]; then
  command -v npm >/dev/null || { echo "setup: the dashboard and its tests need Node 20.19 or later with npm"; exit 1; }
  (cd tests/browser && npm ci --no-fund --no-audit && touch node_modules/.package-lock.json)
fi

# Azure's emulator, for the tests of a vault in Azure: under target/, from a pinned version (3.36 and later want Node 22).
azurite=3.35.0
if [[ $(cat target/azurite/version 2>/dev/null) != "$azurite" ]]; then
  command -v npm >/dev/null || { echo "setup: Node with npm is needed for Azurite: install nodejs and npm, then run again"; exit 1; }
  echo "setup: installing azurite $azurite under target/azurite"
  mkdir -p target/azurite
  npm install --prefix target/azurite --no-audit --no-fund --loglevel=error "azurite@$azurite" >/dev/null
  echo "$azurite" > target/azurite/version
fi
