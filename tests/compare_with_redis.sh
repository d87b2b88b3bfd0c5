#!/usr/bin/env bash
# SET and GET against redis-server on this machine, in alternation: ./tests/compare_with_redis.sh [rounds]
# 50 connections, 64-byte values, 100,000 keys that exist; prints medians in requests per second and their ratio.
set -eu
rounds=${1:-5}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
for tool in redis-server redis-cli redis-benchmark; do
    command -v "$tool" >/dev/null || { echo "$tool is missing (Debian: apt install redis-server redis-tools)" >&2; exit 1; }
done
cargo build --release --quiet --manifest-path "$here/Cargo.toml"

"$here/target/release/kvstore" server 0 >"$work/kvstore" 2>/dev/null &
for _ in $(seq 100); do grep -q 'Server started' "$work/kvstore" && break || sleep 0.05; done
kvstore=$(sed -n 's/Server started on port //p' "$work/kvstore")
# Redis cannot pick a free port: take the next one that nobody uses.
redis=$((kvstore + 1))
while (exec 3<>"/dev/tcp/127.0.0.1/$redis") 2>/dev/null; do redis=$((redis + 1)); done
redis-server --port "$redis" --save '' --appendonly no --dir "$work" >/dev/null &
until redis-cli -p "$redis" ping >/dev/null 2>&1; do sleep 0.05; done

value=$(printf 'v%.0s' $(seq 64))
seq -f '%012.0f' 0 99999 |
    awk -v v="$value" '{ printf "*3\r\n$3\r\nSET\r\n$16\r\nkey:%s\r\n$64\r\n%s\r\n", $1, v }' >"$work/load"
for port in "$kvstore" "$redis"; do
    redis-cli -p "$port" --pipe <"$work/load" >/dev/null
    test "$(redis-cli -p "$port" dbsize)" = 100000
done

measure() { # port pipeline requests -> two lines: SET,rate and GET,rate
    redis-benchmark -p "$1" -c 50 -d 64 -r 100000 -t set,get -P "$2" -n "$3" --csv | sed -n 's/^"\([SG]ET\)","\([0-9.]*\)".*/\1,\2/p'
}
median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

printf '%-9s %-4s %12s %12s %6s\n' pipeline '' kvstore redis ratio
for pipeline in 1 16 64; do
    case $pipeline in 1) requests=200000 ;; 16) requests=1600000 ;; *) requests=3200000 ;; esac
    for round in $(seq "$rounds"); do
        # Who comes first changes every round.
        if [ $((round % 2)) = 0 ]; then order="kvstore redis"; else order="redis kvstore"; fi
        for name in $order; do measure "${!name}" "$pipeline" "$requests" | sed "s/^/$name,$pipeline,/" >>"$work/figures"; done
    done
    for command in SET GET; do
        ours=$(sed -n "s/^kvstore,$pipeline,$command,//p" "$work/figures" | median)
        theirs=$(sed -n "s/^redis,$pipeline,$command,//p" "$work/figures" | median)
        awk -v p="$pipeline" -v c="$command" -v o="$ours" -v t="$theirs" 'BEGIN { printf "%-9s %-4s %12.0f %12.0f %6.2f\n", p, c, o, t, o / t }'
    done
done
