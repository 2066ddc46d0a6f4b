#!/bin/bash
# Workers of a training on hosts that you reach by SSH, without a password asked: bash clusters/hosts.sh node1 node2
# Each host has this repository in the same place ($PWD), set up by `make setup`, and sees the folder $SHARED.
set -euo pipefail
PORT=${PORT:-2222}
SHARED=${SHARED:-$PWD/build/hosts}
RESTARTS=${RESTARTS:-3}
hosts=$(printf "%s:$PORT," "$@")

for attempt in $(seq 0 "$RESTARTS"); do
    pids=()
    index=0
    for host in "$@"; do
        # -tt: the worker ends when the connection does
        ssh -tt "$host" "cd '$PWD' && .venv/bin/python -m hwlimits.training.workers \
            --hosts '${hosts%,}' --index $index --folder '$SHARED'" &
        pids+=($!)
        index=$((index + 1))
    done
    failed=0
    for _ in "${pids[@]}"; do
        wait -n || { failed=1; break; }
    done
    [ "$failed" = 0 ] && exit 0
    echo "a worker died; all are started again from the last checkpoint" >&2
    kill "${pids[@]}" 2>/dev/null || true
    wait || true
done
echo "given up after $((RESTARTS + 1)) attempts" >&2
exit 1
