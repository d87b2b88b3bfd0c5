#!/usr/bin/env bash
# This server against redis-server on this machine, in alternation: ./tests/compare_with_redis.sh [what [rounds]]
#   memory        SET and GET without any log, pipeline 1, 16 and 64 (the default)
#   wide          the same with keys that do not exist, with 500 connections, with values of 1 KiB and 64 KiB
#   log           SET with a log on the disk, fsync every second and always
#   recovery      the start with 1,000,000 keys in the log
#   compaction    latency at 20,000 writes a second, while the log is made short again
#   replication   SET with two live peers, the first copy of 1,000,000 keys, the lag of a write at 5,000 a second
#   load          latency while up to 10,000,000 keys are loaded, pipeline 1, 8, 16 and 64
#   large         8,000,000 of 10,000,000 keys: memory, throughput (one round of loading, 4 GB)
#   rate          latency at 45,000 requests a second, about a third of what both can do
#   connections   2,000 and 5,000 connections opened at once
# 50 connections, 64-byte values, 16-byte keys, 100,000 keys that exist; medians and their ratio.
set -eu
what=${1:-memory} rounds=${2:-5}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'exec 2>/dev/null; kill -9 $(jobs -p) 2>/dev/null; wait 2>/dev/null; rm -rf "$work"' EXIT
for tool in redis-server redis-cli redis-benchmark python3; do
    command -v "$tool" >/dev/null || { echo "$tool is missing (Debian: apt install redis-server redis-tools python3)" >&2; exit 1; }
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

load_both() { # keys
    load "$ours" "$1"
    load "$theirs" "$1"
}

median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

# in_turn ROUND ONE OTHER: both; who comes first changes every round
in_turn() { [ $(($1 % 2)) = 0 ] && echo "$2 $3" || echo "$3 $2"; }

keys=100000 value_bytes=64

# measure PORT COMMANDS CONNECTIONS PIPELINE REQUESTS -> lines "SET,requests per second"
measure() {
    redis-benchmark -p "$1" -t "$2" -c "$3" -P "$4" -n "$5" -d "$value_bytes" -r "$keys" --csv |
        sed -n 's/^"\([SG]ET\)","\([0-9.]*\)".*/\1,\2/p'
}

# compare TITLE KVSTORE_PORT REDIS_PORT COMMANDS CONNECTIONS PIPELINE REQUESTS
compare() {
    local title=$1 kvstore=$2 redis=$3 commands=$4 round name command
    shift 4
    for round in $(seq "$rounds"); do
        for name in $(in_turn "$round" kvstore redis); do
            measure "${!name}" "$commands" "$@" | sed "s/^/$name,/"
        done
    done >"$work/figures"
    for command in $(echo "$commands" | tr 'a-z,' 'A-Z '); do
        row "$title" "$command" "$(sed -n "s/^kvstore,$command,//p" "$work/figures" | median)" \
            "$(sed -n "s/^redis,$command,//p" "$work/figures" | median)"
    done
}

# seconds NAME: the median of the lines "NAME,nanoseconds" in $work/times
seconds() { sed -n "s/^$1,//p" "$work/times" | median | awk '{ print $1 / 1e9 }'; }

row() { awk -v t="$1" -v c="$2" -v o="$3" -v r="$4" 'BEGIN { printf "%-36s %-4s %12.'"${5:-0}"'f %12.'"${5:-0}"'f %6.2f\n", t, c, o, r, o / r }'; }

printf '%-36s %-4s %12s %12s %6s\n' "" "" kvstore redis ratio
case $what in
memory)
    start_kvstore ours
    start_redis theirs --appendonly no
    load_both 100000
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
    load_both 1000000
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
    row "start with 1,000,000 keys, in seconds" "" "$(seconds kvstore)" "$(seconds redis)" 2
    ;;
wide)
    start_kvstore ours
    start_redis theirs --appendonly no
    load_both 100000
    compare "500 connections, pipeline 1" "$ours" "$theirs" set,get 500 1 200000
    compare "500 connections, pipeline 16" "$ours" "$theirs" set,get 500 16 1600000
    value_bytes=1024
    compare "values of 1 KiB, pipeline 1" "$ours" "$theirs" set,get 50 1 200000
    compare "values of 1 KiB, pipeline 16" "$ours" "$theirs" set,get 50 16 800000
    value_bytes=65536 keys=1000
    compare "values of 64 KiB, pipeline 1" "$ours" "$theirs" set,get 50 1 40000
    compare "values of 64 KiB, pipeline 16" "$ours" "$theirs" set,get 50 16 40000
    # The keys of the load are all there; those behind them are not.
    measure() {
        redis-benchmark -p "$1" -c "$3" -P "$4" -n "$5" -r 100000 --csv get missing:__rand_int__ |
            sed -n 's/^"get[^"]*","\([0-9.]*\)".*/GET,\1/p'
    }
    compare "keys that do not exist, pipeline 16" "$ours" "$theirs" get 50 16 1600000
    ;;
compaction)
    start_kvstore ours --data-dir "$work/data"
    start_redis theirs --appendonly yes --auto-aof-rewrite-percentage 100
    "$here/target/release/kvstore" bench localhost "$ours" --compare "localhost:$theirs" \
        --rounds "$rounds" --seconds 30 --rate 20000 --keys 400000 --reads 0 2>/dev/null
    for name in ours theirs; do
        echo "compactions of $name: $(redis-cli -p "${!name}" info persistence | sed -n 's/^aof_rewrites:\([0-9]*\).*/\1/p')"
    done
    ;;
rate)
    start_kvstore ours
    start_redis theirs --appendonly no
    "$here/target/release/kvstore" bench localhost "$ours" --compare "localhost:$theirs" \
        --rounds "$rounds" --seconds 10 --rate 45000 2>/dev/null
    for name in ours theirs; do
        pid=${name}_pid
        echo "processor time of $name: $(awk '{ print ($14 + $15) / 100 }' "/proc/${!pid}/stat") s"
    done
    ;;
replication)
    start_kvstore ours
    start_kvstore ours_second --peer "localhost:$ours"
    start_kvstore ours_third --peer "localhost:$ours"
    start_redis theirs --appendonly no --repl-diskless-sync-delay 0
    start_redis theirs_second --replicaof "127.0.0.1 $theirs"
    start_redis theirs_third --replicaof "127.0.0.1 $theirs"
    load_both 100000
    for port in "$ours_second" "$ours_third" "$theirs_second" "$theirs_third"; do
        until [ "$(redis-cli -p "$port" dbsize 2>/dev/null)" = 100000 ]; do sleep 0.05; done
    done
    compare "two live peers, pipeline 16" "$ours" "$theirs" set 50 16 800000
    compare "two live peers, pipeline 1" "$ours" "$theirs" set 50 1 200000
    for name in ours theirs; do
        # Written here, polled there, by the same program.
        second=${name}_second
        python3 - "${!name}" "${!second}" "$here/target/release/kvstore" >"$work/lag.$name" <<'LAG'
import socket, subprocess, sys, time
here, there, kvstore = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
load = subprocess.Popen([kvstore, "bench", "localhost", str(here), "--rate", "5000", "--reads", "0", "--seconds", "12"],
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
time.sleep(3)  # The keys of the load are there.
writer, reader = (socket.create_connection(("127.0.0.1", port)) for port in (here, there))
lags = []
while load.poll() is None and len(lags) < 2000:
    value = b"%020d" % len(lags)
    writer.sendall(b"*3\r\n$3\r\nSET\r\n$5\r\nprobe\r\n$20\r\n" + value + b"\r\n")
    start = time.perf_counter()
    assert writer.recv(100) == b"+OK\r\n"
    answer = b""
    while value not in answer:
        reader.sendall(b"*2\r\n$3\r\nGET\r\n$5\r\nprobe\r\n")
        answer = reader.recv(100)
    lags.append((time.perf_counter() - start) * 1000)
    time.sleep(0.002)
load.wait()
lags.sort()
print(lags[len(lags) // 2], lags[len(lags) * 99 // 100])
LAG
    done
    row "lag at 5,000 writes a second, ms" p50 "$(cut -d' ' -f1 "$work/lag.ours")" "$(cut -d' ' -f1 "$work/lag.theirs")" 2
    row "lag at 5,000 writes a second, ms" p99 "$(cut -d' ' -f2 "$work/lag.ours")" "$(cut -d' ' -f2 "$work/lag.theirs")" 2
    kill -9 "$ours_pid" "$ours_second_pid" "$ours_third_pid" "$theirs_pid" "$theirs_second_pid" "$theirs_third_pid"
    start_kvstore ours
    start_redis theirs --appendonly no --repl-diskless-sync-delay 0
    load_both 1000000
    for round in $(seq "$rounds"); do
        for name in $(in_turn "$round" ours theirs); do
            start=$(date +%s%N)
            case $name in
            ours) start_kvstore fresh --peer "localhost:$ours" ;;
            theirs) start_redis fresh --replicaof "127.0.0.1 $theirs" --appendonly no ;;
            esac
            until [ "$(redis-cli -p "$fresh" dbsize 2>/dev/null)" -ge 1000000 ] 2>/dev/null; do sleep 0.01; done
            echo "$name,$(($(date +%s%N) - start))" >>"$work/times"
            kill -9 "$fresh_pid"
            wait "$fresh_pid" 2>/dev/null || true
        done
    done
    row "first copy of 1,000,000 keys, in seconds" "" "$(seconds ours)" "$(seconds theirs)" 2
    ;;
load)
    percentile() { tr '\r' '\n' <"$work/load" | awk -v p="$1" '$1 + 0 >= p && $2 == "<=" { print $3; exit }'; }
    for pipeline in 1 8 16 64; do
        for round in $(seq "$rounds"); do
            for name in $(in_turn "$round" kvstore redis); do
                # A new server each time, so that every table grows.
                case $name in
                kvstore) start_kvstore fresh ;;
                redis) start_redis fresh --appendonly no ;;
                esac
                redis-benchmark -p "$fresh" -t set -c 50 -n $((pipeline == 1 ? 1000000 : 8000000)) -d 64 -r 10000000 \
                    -P "$pipeline" >"$work/load" 2>/dev/null
                percentile 99.9 >>"$work/p999.$name.$pipeline"
                percentile 100 >>"$work/max.$name.$pipeline"
                kill -9 "$fresh_pid"
                wait "$fresh_pid" 2>/dev/null || true
            done
        done
        for figure in p999 max; do
            row "loading, pipeline $pipeline, ms" "$figure" "$(median <"$work/$figure.kvstore.$pipeline")" \
                "$(median <"$work/$figure.redis.$pipeline")" 2
        done
    done
    ;;
large)
    start_kvstore ours
    start_redis theirs --appendonly no
    for name in ours theirs; do
        # By chance, as `-r` picks: about 8,000,000 different keys of 10,000,000.
        pid=${name}_pid
        redis-benchmark -p "${!name}" -t set -c 50 -n 16000000 -d 64 -r 10000000 -P 8 -q >/dev/null 2>&1
        awk '/VmRSS/ { print $2 / 1024 }' "/proc/${!pid}/status" >"$work/rss.$name"
        redis-cli -p "${!name}" dbsize >"$work/size.$name"
    done
    figures() { row "$1" "" "$(cat "$work/$2.ours")" "$(cat "$work/$2.theirs")" "$3"; }
    figures "keys loaded" size 0
    figures "memory (RSS), MiB" rss 0
    for keys in 10000 10000000; do compare "$keys keys, pipeline 16" "$ours" "$theirs" set,get 50 16 1600000; done
    ;;
connections)
    ulimit -n "$(ulimit -Hn)"
    start_kvstore ours
    start_redis theirs --appendonly no --maxclients 10000
    for count in 2000 5000; do
        for round in $(seq "$rounds"); do
            for name in ours theirs; do
                python3 - "${!name}" "$count" <<'OPEN' | sed "s/^/$name,/" >>"$work/times"
import select, socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
poll, waiting = select.epoll(), {}
start = time.perf_counter_ns()
for _ in range(count):
    wire = socket.socket()
    wire.setblocking(False)
    wire.connect_ex(("127.0.0.1", port))
    waiting[wire.fileno()] = wire
    poll.register(wire, select.EPOLLOUT)
served = []
while waiting:
    for number, events in poll.poll():
        wire = waiting[number]
        if events & select.EPOLLIN:
            assert wire.recv(100) == b"+PONG\r\n"
            served.append(waiting.pop(number))
            poll.unregister(number)
        else:
            wire.sendall(b"*1\r\n$4\r\nPING\r\n")
            poll.modify(number, select.EPOLLIN)
print(time.perf_counter_ns() - start)
OPEN
            done
        done
        row "$count at once, all served, in seconds" "" "$(seconds ours)" "$(seconds theirs)" 2
        rm "$work/times"
    done
    ;;
*)
    echo "unknown: $what; one of memory, wide, log, recovery, compaction, replication, rate, large, connections" >&2
    exit 2
    ;;
esac
