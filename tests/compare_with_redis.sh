#!/usr/bin/env bash
# This server against redis-server on this machine, in alternation: ./tests/compare_with_redis.sh [what [rounds]]
#   memory     SET and GET without any log, pipeline 1, 16 and 64 (the default)
#   log        SET with a log on the disk, fsync every second and always
#   recovery   the start with 1,000,000 keys in the log
# 50 connections, 64-byte values, 16-byte keys, 100,000 keys that exist; medians and their ratio.
set -eu
what=${1:-memory} rounds=${2:-5}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'exec 2>/dev/null; kill -9 $(jobs -p) 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT
for tool in redis-server redis-cli redis-benchmark; do
    command -v "$tool" >/dev/null || { echo "$tool is missing (Debian: apt install redis-server redis-tools)" >&2; exit 1; }
done
cargo build --release --quiet --manifest-path "$here/Cargo.toml"

# start_kvstore NAME [options]: sets $NAME to the port and $NAME_pid.
start_kvstore() {
    local name=$1
    shift
    "$here/target/release/kvstore" server 0 "$@" >"$work/$name" 2>/dev/null &
    printf -v "${name}_pid" %s $!
    until grep -qs 'Server started' "$work/$name"; do sleep 0.01; done
    printf -v "$name" %s "$(sed -n 's/Server started on port //p' "$work/$name")"
}

# start_redis NAME [options]: the same for Redis, which cannot pick a free port: it gets one that nobody uses.
next_port=21000
start_redis() {
    local name=$1
    shift
    while (exec 3<>"/dev/tcp/127.0.0.1/$next_port") 2>/dev/null; do next_port=$((next_port + 1)); done
    mkdir -p "$work/$name.dir"
    redis-server --port "$next_port" --dir "$work/$name.dir" --save '' --auto-aof-rewrite-percentage 0 "$@" >/dev/null &
    printf -v "${name}_pid" %s $!
    printf -v "$name" %s "$next_port"
    until [ "$(redis-cli -p "$next_port" ping 2>/dev/null)" = PONG ]; do sleep 0.01; done
    next_port=$((next_port + 1))
}

load() { # port keys
    seq -f '%012.0f' 0 $(($2 - 1)) |
        awk -v v="$(printf 'v%.0s' $(seq 64))" '{ printf "*3\r\n$3\r\nSET\r\n$16\r\nkey:%s\r\n$64\r\n%s\r\n", $1, v }' |
        redis-cli -p "$1" --pipe >/dev/null
    test "$(redis-cli -p "$1" dbsize)" = "$2"
}

median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

# measure PORT COMMANDS CONNECTIONS PIPELINE REQUESTS -> lines "SET,requests per second"
measure() {
    redis-benchmark -p "$1" -t "$2" -c "$3" -P "$4" -n "$5" -d 64 -r 100000 --csv | sed -n 's/^"\([SG]ET\)","\([0-9.]*\)".*/\1,\2/p'
}

# compare TITLE KVSTORE_PORT REDIS_PORT COMMANDS CONNECTIONS PIPELINE REQUESTS
compare() {
    local title=$1 kvstore=$2 redis=$3 commands=$4 round name command
    shift 4
    for round in $(seq "$rounds"); do
        # Who comes first changes every round.
        for name in $([ $((round % 2)) = 0 ] && echo kvstore redis || echo redis kvstore); do
            measure "${!name}" "$commands" "$@" | sed "s/^/$name,/"
        done
    done >"$work/figures"
    for command in $(echo "$commands" | tr 'a-z,' 'A-Z '); do
        row "$title" "$command" "$(sed -n "s/^kvstore,$command,//p" "$work/figures" | median)" \
            "$(sed -n "s/^redis,$command,//p" "$work/figures" | median)"
    done
}

row() { awk -v t="$1" -v c="$2" -v o="$3" -v r="$4" 'BEGIN { printf "%-36s %-4s %12.'"${5:-0}"'f %12.'"${5:-0}"'f %6.2f\n", t, c, o, r, o / r }'; }

printf '%-36s %-4s %12s %12s %6s\n' "" "" kvstore redis ratio
case $what in
memory)
    start_kvstore ours
    start_redis theirs --appendonly no
    load "$ours" 100000
    load "$theirs" 100000
    compare "memory, pipeline 1" "$ours" "$theirs" set,get 50 1 200000
    compare "memory, pipeline 16" "$ours" "$theirs" set,get 50 16 1600000
    compare "memory, pipeline 64" "$ours" "$theirs" set,get 50 64 3200000
    ;;
log)
    start_kvstore ours --data-dir "$work/everysec"
    start_redis theirs --appendonly yes --appendfsync everysec
    compare "everysec, pipeline 16" "$ours" "$theirs" set 50 16 1600000
    compare "everysec, pipeline 1" "$ours" "$theirs" set 50 1 200000
    start_kvstore ours_always --data-dir "$work/always" --fsync always
    start_redis theirs_always --appendonly yes --appendfsync always
    compare "always, pipeline 1" "$ours_always" "$theirs_always" set 50 1 50000
    compare "always, pipeline 16" "$ours_always" "$theirs_always" set 50 16 200000
    compare "always, pipeline 1, 1 connection" "$ours_always" "$theirs_always" set 1 1 5000
    ;;
recovery)
    start_kvstore ours --data-dir "$work/data"
    start_redis theirs --appendonly yes --aof-use-rdb-preamble no
    load "$ours" 1000000
    load "$theirs" 1000000
    for round in $(seq "$rounds"); do
        kill -9 "$ours_pid" "$theirs_pid"
        wait "$ours_pid" "$theirs_pid" 2>/dev/null || true
        start=$(date +%s%N)
        start_kvstore ours --data-dir "$work/data"
        echo "kvstore,$(($(date +%s%N) - start))" >>"$work/times"
        test "$(redis-cli -p "$ours" dbsize)" = 1000000
        start=$(date +%s%N)
        start_redis theirs --appendonly yes --aof-use-rdb-preamble no
        echo "redis,$(($(date +%s%N) - start))" >>"$work/times"
        test "$(redis-cli -p "$theirs" dbsize)" = 1000000
    done
    seconds() { sed -n "s/^$1,//p" "$work/times" | median | awk '{ print $1 / 1e9 }'; }
    row "start with 1,000,000 keys, in seconds" "" "$(seconds kvstore)" "$(seconds redis)" 2
    ;;
*)
    echo "unknown: $what; one of memory, log, recovery" >&2
    exit 2
    ;;
esac
