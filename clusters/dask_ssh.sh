#!/bin/bash
# A Dask cluster on hosts that you reach by SSH, the first one with the scheduler: bash clusters/dask_ssh.sh node0 node1 node2
# Then, from any of them: hwlimits sweep grid.yaml --scheduler tcp://node0:8786
set -euo pipefail
scheduler=$1
shift
ssh -tt "$scheduler" "cd '$PWD' && .venv/bin/dask scheduler --host '$scheduler' --port 8786" &
sleep 5
for host in "$@"; do
    # one thread a process: tasks train, and a training takes a core; --nworkers auto is one process for each core
    ssh -tt "$host" "cd '$PWD' && .venv/bin/dask worker tcp://$scheduler:8786 --nworkers auto --nthreads 1" &
done
wait
