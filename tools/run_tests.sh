#!/usr/bin/env bash
# Build or link the environment (tools/setup_env.sh), then run the tests in it. Arguments go to pytest:
#
#   tools/run_tests.sh                                 everything
#   tools/run_tests.sh tests/test_apis -k checkpoint   a part; a later -n 0 runs it in one process
#
# Environment variable TEST_JOBS: how many test processes (default: 2).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/tools/setup_env.sh"
cd "$root"
# Several test processes share the cores, so that each of them computes with one thread.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
exec .venv/bin/python -m pytest -n "${TEST_JOBS:-2}" --dist loadfile --durations=15 "$@"
