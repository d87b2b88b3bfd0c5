#!/usr/bin/env bash
# Runs a node: ./run_server.sh [port] [server options]
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

for tool in cargo cc; do
    command -v "$tool" >/dev/null || {
        echo "$tool is missing: install Rust from https://rustup.rs and a C compiler (Debian: apt install build-essential)" >&2
        exit 1
    }
done

# A connection takes a descriptor: raise the soft limit towards 65,536 as far as it may go.
soft=$(ulimit -S -n) hard=$(ulimit -H -n)
if [ "$soft" != unlimited ] && [ "$soft" -lt 65536 ]; then
    ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$hard"
fi

# cargo builds what has changed, so an old binary is never started; it is quiet after the first time.
[ -x "$here/target/release/kvstore" ] && quiet=--quiet || quiet=
exec cargo run $quiet --release --manifest-path "$here/Cargo.toml" -- server "$@"
