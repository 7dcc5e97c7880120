#!/usr/bin/env bash
# Run train.py in several processes on this machine, or on several machines:
#
#   tools/dist_train.sh CONFIG PROCESSES [arguments of train.py]
#
# Environment variables for several machines: NNODES, NODE_RANK, MASTER_ADDR, PORT. PYTHON is the interpreter (default:
# the .venv of this checkout, else python).
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
usage="usage: dist_train.sh CONFIG PROCESSES [arguments of train.py]"
[ $# -ge 2 ] || { echo "$usage" >&2; exit 2; }
positional=("${@:1:1}") processes=${@:2:1}
[[ $processes =~ ^[1-9][0-9]*$ ]] ||
    { echo "dist_train.sh: PROCESSES must be a positive number, got '$processes'; $usage" >&2; exit 2; }
python=$tools/../.venv/bin/python
[ -x "$python" ] || python=python
exec "${PYTHON:-$python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$tools/train.py" "${positional[@]}" --launcher pytorch "${@:3}"
