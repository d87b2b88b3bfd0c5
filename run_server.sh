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

# Three terminals, no flags: 8080, 8081 and 8082 look for each other, unless peers are named.
if [ -z "${KVSTORE_PEER:-}" ] && [[ " $* " != *" --peer"[\ =]* ]]; then
    case "${1:-8080}" in
        8080 | -*) export KVSTORE_PEER=localhost:8081,localhost:8082 ;;
        8081) export KVSTORE_PEER=localhost:8080,localhost:8082 ;;
        8082) export KVSTORE_PEER=localhost:8080,localhost:8081 ;;
    esac
fi
# cargo builds what has changed, so an old binary never starts; it is quiet after the first time.
[ -x "$here/target/release/kvstore" ] && quiet=--quiet || quiet=
exec cargo run $quiet --release --manifest-path "$here/Cargo.toml" -- server "$@"
