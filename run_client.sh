#!/usr/bin/env bash
# Talks to a node: ./run_client.sh [host] [port] [command...]
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

for tool in cargo cc; do
    command -v "$tool" >/dev/null || {
        echo "$tool is missing: install Rust from https://rustup.rs and a C compiler (Debian: apt install build-essential)" >&2
        exit 1
    }
done

# cargo builds what has changed, so an old binary is never started; it is quiet after the first time.
[ -x "$here/target/release/kvstore" ] && quiet=--quiet || quiet=
cargo build $quiet --release --manifest-path "$here/Cargo.toml"

# A server that was started a moment ago may still be starting: give it 3 seconds.
host=${1:-localhost} port=${2:-8080}
for _ in $(seq 30); do
    case $host in -*) break ;; esac
    (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null && break || sleep 0.1
done

# Line editing and history, where rlwrap is installed and a person sits at a terminal that can do it.
[ $# -le 2 ] && [ -t 0 ] && [ -t 1 ] && [ "${TERM:-dumb}" != dumb ] && command -v rlwrap >/dev/null && edit=rlwrap || edit=
exec $edit cargo run --quiet --release --manifest-path "$here/Cargo.toml" -- client "$@"
