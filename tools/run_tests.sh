#!/usr/bin/env bash
# Build or link the environment (tools/setup_env.sh), then run the tests in it. Arguments go to pytest:
#
#   tools/run_tests.sh                                 everything
#   tools/run_tests.sh tests/test_apis -k checkpoint   a part; a later -n 0 runs it in one process
#
# Paths may be relative to the current folder or to the project.
# Environment variables: TEST_JOBS, how many test processes (default: 2); CMT_AQR_ACTIVE=1, use the active Python
# (PYTHON, default: python) instead of .venv, as in tools/setup_env.sh.
set -euo pipefail
case ${1:-} in -h|--help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/tools/setup_env.sh"

python=$root/.venv/bin/python
if [ "${CMT_AQR_ACTIVE:-0}" = 1 ]; then
    python=$(command -v "${PYTHON:-python}")
fi

# Tests run in the project's folder: paths that exist in the current one become absolute.
arguments=() previous=
for argument in "$@"; do
    case $previous in
        -k|-m|-n|-p|-o|-W|-r) ;;                     # a value, even where a file has that name
        *) case $argument in
               -*|/*) ;;
               *) if [ -e "${argument%%::*}" ]; then argument=$PWD/$argument; fi ;;
           esac ;;
    esac
    arguments+=("$argument")
    previous=$argument
done
cd "$root"
# Several test processes share the cores, so that each of them computes with one thread.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
exec "$python" -m pytest -n "${TEST_JOBS:-2}" --dist loadfile --durations=15 "${arguments[@]}"
