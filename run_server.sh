#!/usr/bin/env bash
# Runs a node: ./run_server.sh [port] [server options]
[ -n "${BASH_VERSION:-}" ] || { echo "$0 is a script for bash, so type: bash $0 $*" >&2; exit 2; }
set -eu
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
for tool in cargo cc; do command -v "$tool" >/dev/null && continue
    echo "$tool is missing: install Rust (https://rustup.rs) and a C linker (Debian: apt install build-essential)" >&2
    exit 1
done
version=$(cargo --version) needed=$(sed -n 's/^rust-version = "1\.\([0-9]*\)"/\1/p' "$here/Cargo.toml")
if [[ $version =~ ^cargo\ ([0-9]+)\.([0-9]+) ]] && ((BASH_REMATCH[1] * 1000 + BASH_REMATCH[2] < 1000 + needed)); then
    echo "$version is too old, Rust 1.$needed is needed: rustup update, or install Rust from https://rustup.rs" >&2
    exit 1
fi
# A connection takes a descriptor: raise the soft limit towards 65,536 as far as it may go.
soft=$(ulimit -S -n)
[ "$soft" = unlimited ] || [ "$soft" -ge 65536 ] || ulimit -S -n 65536 2>/dev/null || ulimit -S -n "$(ulimit -H -n)"
# Three terminals: 8080, 8081 and 8082 look for each other, or with --raft join 8080, unless peers are named.
case ${KVSTORE_RAFT:-}:" $* " in *:*" --raft "* | 1:* | true:*) raft=raft ;; *) raft= ;; esac
case ${KVSTORE_PEER:-}:$raft${1:-8080}:" $* " in
    :*" --peer"[\ =]*) ;;
    :raft808[12]:*) export KVSTORE_PEER=localhost:8080 ;;
    :8080:* | :-*) export KVSTORE_PEER=localhost:8081,localhost:8082 ;;
    :8081:*) export KVSTORE_PEER=localhost:8080,localhost:8082 ;;
    :8082:*) export KVSTORE_PEER=localhost:8080,localhost:8081 ;;
esac
# cargo builds what has changed, so an old binary never starts; it is quiet after the first time.
[ -x "$here/target/release/kvstore" ] && quiet=--quiet || quiet=
exec cargo run $quiet --release --manifest-path "$here/Cargo.toml" -- server "$@"
