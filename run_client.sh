#!/usr/bin/env bash
# Talks to a node: ./run_client.sh [host] [port] [command...]
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
# cargo builds what has changed, so an old binary is never started; it is quiet after the first time.
[ -x "$here/target/release/kvstore" ] && quiet=--quiet || quiet=
cargo build $quiet --release --manifest-path "$here/Cargo.toml"
words=() option= # host, port and command: what is neither an option nor the value of one
for word; do
    case $option$word in --*' '*) option= ;; -? | --*=* | --help) ;; --*) option="$word " ;; *) words+=("$word") ;; esac
done
# A server that was started a moment ago may still be starting: retry a refused connection for 3 s, if it is the only one.
for _ in $(case ${KVSTORE_ALSO:-}" $* " in " --help "* | ?*" --also"* | [!\ ]*) ;; *) seq 30 ;; esac); do
    timeout 3 bash -c ': <>"/dev/tcp/$0/$1"' "${words[0]:-localhost}" "${words[1]:-8080}" 2>/dev/null ||
        [ $? != 1 ] && break || sleep 0.1
done
# Line editing and history, where rlwrap is installed and a person sits at a terminal that can do it.
[ ${#words[@]} -le 2 ] && [ -t 0 ] && [ -t 1 ] && [ "${TERM:-dumb}" != dumb ] && edit=$(command -v rlwrap) || edit=
exec ${edit:+"$edit"} cargo run --quiet --release --manifest-path "$here/Cargo.toml" -- client "$@"
