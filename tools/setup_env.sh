#!/usr/bin/env bash
# Build the environment once and make it available to this checkout. Safe to run again: it does only what is missing.
#
#   tools/setup_env.sh            builds a virtual environment in the cache and links .venv to it
#   tools/setup_env.sh --active   installs into the active Python environment instead (so does CMT_AQR_ACTIVE=1), after
#                                 a list of what this changes there; a torch in the fitting range and an spconv that are
#                                 already there (CUDA builds, say) are kept
#
# Environment variables: PYTHON (interpreter; default: python3.11, python3 or python, with --active: python),
# CMT_AQR_CACHE (default ~/.cache/cmt-aqr), MAX_JOBS (compile jobs, default: mmcv's own choice).
set -euo pipefail

# A torch in this range is kept, if tools/check_environment.py passes with it. Older ones read checkpoints unsafely even
# with weights_only=True (CVE-2026-24747, CVE-2025-32434); mmcv-full 1.7.2 does not compile against torch >= 2.14 (C++20).
TORCH_MIN=2.10 TORCH_BELOW=2.14
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pins=$root/requirements.txt

die() { printf 'setup_env: %s\n' "$*" >&2; exit 1; }
log() { printf '[setup_env %4ss] %s\n' "$SECONDS" "$*"; }

case "$*" in
    '') [ "${CMT_AQR_ACTIVE:-}" = 1 ] && mode=active || mode=cached ;;
    --active) mode=active ;;
    -h|--help) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown arguments '$*'; allowed: --active, --help" ;;
esac

# Pins of one stage of requirements.txt, one a line.
stage() { awk -v want="$1" '/^# stage:/ { on = ($3 == want); next } on && NF && $1 !~ /^#/ { print $1 }' "$pins"; }

# pip_install STAGE [pip options]: installs every pin of a stage.
pip_install() {
    local name=$1; shift
    log "installing stage '$name'"
    stage "$name" | "$python" -m pip install -qq --disable-pip-version-check --constraint "$constraints" \
        "$@" --requirement /dev/stdin
}

torch_state() {     # prints "absent", "fits VERSION" or "unfit VERSION"
    "$python" - "$TORCH_MIN" "$TORCH_BELOW" <<'PY'
import sys
from importlib import metadata
as_tuple = lambda v: tuple(int(p) for p in v.split('+')[0].split('.')[:2])
try:
    version = metadata.version('torch')
    metadata.version('torchvision')
except metadata.PackageNotFoundError:
    print('absent')
else:
    fits = as_tuple(sys.argv[1]) <= as_tuple(version) < as_tuple(sys.argv[2])
    print('fits' if fits else 'unfit', version)
PY
}

installed() { "$python" -c "from importlib import metadata; print(metadata.version('$1'))" 2>/dev/null; }

install_spconv() {
    local name
    for name in $("$python" -m pip list --format=freeze 2>/dev/null | sed -n 's/^\(spconv[^=]*\)==.*/\1/p'); do
        log "keeping the installed $name $(installed "$name")"
        return
    done
    if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        pip_install spconv-cuda
    else
        pip_install spconv-cpu
    fi
}

install_mmcv() {
    local wanted; wanted=$(stage compile | sed 's/.*==//')
    if [ "$(installed mmcv-full)" = "$wanted" ] && "$python" -c 'import mmcv.ops' >/dev/null 2>&1; then
        return
    fi
    [ -z "$(installed mmcv)" ] || die "mmcv $(installed mmcv) is installed and would shadow mmcv-full $wanted; remove it first: pip uninstall mmcv"
    log 'compiling mmcv-full (about 5 minutes on 2 cores)'
    # A wheel cached for another torch would load but crash: never reuse one, and replace what does not import.
    MMCV_WITH_OPS=1 CFLAGS=-g0 pip_install compile --no-deps --no-build-isolation --no-cache-dir --no-binary mmcv-full --force-reinstall
}

# mmdet3d 1.0.0rc6 refuses mmcv > 1.7.0 when it is imported; its development branch lifted that bound to 1.8.0 and
# changed nothing else. Lifted here too, so that mmdet3d imports in any order and its own tools run.
lift_mmdet3d_bound() {
    "$python" - <<'PY'
import importlib.util
from pathlib import Path
path = Path(importlib.util.find_spec('mmdet3d').origin)
text = path.read_text()
lifted = text.replace("mmcv_maximum_version = '1.7.0'", "mmcv_maximum_version = '1.8.0'")
if lifted != text:
    temporary = path.with_suffix('.lifted')  # whole or not at all: this may be killed
    temporary.write_text(lifted)
    temporary.replace(path)
    print(f'lifted the bound on mmcv in {path} to 1.8.0')
PY
}

# What an installation into a shared environment would change, package by package.
announce_changes() {
    log "this will change $("$python" -c 'import sys; print(sys.prefix)'):"
    { stage build; stage torch; stage libraries; stage test; stage no-deps; stage compile; } | "$python" -c '
import sys
from importlib import metadata
for pin in sys.stdin.read().split():
    name, _, wanted = pin.replace("<", "==<").partition("==")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = None
    if name == "torch" and found:
        print(f"  torch {found}: kept if >= '"$TORCH_MIN"' and < '"$TORCH_BELOW"', otherwise this stops")
    elif name == "torchvision" and found:
        print(f"  torchvision {found}: kept with torch")
    elif found is None:
        print(f"  {name} {wanted}: new")
    elif wanted.startswith("<"):
        if int(found.split(".")[0]) >= int(wanted[1:].split(".")[0]):
            print(f"  {name} {found} -> {wanted}")
    elif found != wanted:
        print(f"  {name} {found} -> {wanted}")
'
    log "  and what these need, by pip; spconv: an installed one is kept; mmdet3d's bound on mmcv is lifted to 1.8.0 in its __init__.py; cmt-aqr becomes an editable install"
}

install_all() {
    constraints=$(mktemp)
    trap 'rm -f "$constraints"' EXIT
    "$python" -m pip --version >/dev/null 2>&1 || die "$python has no pip"
    { stage libraries; stage build; } | grep -E '==|<' > "$constraints"
    pip_install build
    local torch; torch=$(torch_state)
    case $torch in
        fits*) log "keeping the installed torch ${torch#fits }" ;;
        unfit*) die "torch ${torch#unfit } is installed; allowed: >= $TORCH_MIN and < $TORCH_BELOW" ;;
        absent) pip_install torch ;;
    esac
    "$python" -m pip freeze 2>/dev/null | grep -E '^torch(vision)?==' >> "$constraints" || true
    pip_install libraries
    install_spconv
    pip_install test
    pip_install no-deps --no-deps --no-build-isolation
    install_mmcv
    lift_mmdet3d_bound
    check_environment >/dev/null 2>&1 \
        || die "the environment does not work with torch $(installed torch); see: $python $root/tools/check_environment.py"
}

check_environment() { (cd / && "$python" "$root/tools/check_environment.py" "$@"); }

# An interrupted build goes on where it stopped: what pip was killed at is installed anew. Without a pip all starts anew.
start_or_resume() {
    python=$env_dir/bin/python
    if [ -d "$env_dir" ]; then
        if check_environment --forget-half-installed && [ -n "$(installed pip)" ]; then
            return
        fi
        log "$env_dir has no pip: starting anew"
    fi
    "$base" -m venv --clear "$env_dir"
}

find_python() {
    local candidates=("${PYTHON:-}") candidate
    if [ -z "${PYTHON:-}" ]; then
        [ "$mode" = active ] && candidates=(python) || candidates=(python3.11 python3 python)
    fi
    for candidate in "${candidates[@]}"; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if [ "$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = 3.11 ]; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    die "Python 3.11 is needed (the pins are verified on it alone); tried: ${candidates[*]}. Set PYTHON=/path/to/python3.11"
}

if [ "$mode" = active ]; then
    python=$(find_python)
    announce_changes
    install_all
    log 'installing the plugin package (editable)'
    "$python" -m pip install --quiet --no-deps --no-build-isolation --editable "$root"
    log "done: the package and its pins are in $python"
    exit 0
fi

# The cached environment is shared by all checkouts with the same pins, so it holds no link to any one of them: tools
# and tests put their own checkout on the path. Machines with and without a GPU that share a home need one each.
base=$(find_python)
device=$(nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
key=$(sha256sum "$pins" | cut -c1-12)-py311-$(uname -m)-$device
env_dir=${CMT_AQR_CACHE:-$HOME/.cache/cmt-aqr}/env-$key
mkdir -p "$(dirname "$env_dir")"
exec 9> "$env_dir.lock"
# A second checkout waits for the first build instead of disturbing it.
flock -n 9 || { log "waiting for another set-up that builds $env_dir"; flock 9; }
if [ ! -e "$env_dir/.complete" ] || ! "$env_dir/bin/python" -c '' 2>/dev/null; then
    log "building $env_dir (log: $env_dir.log)"
    export TMPDIR=$env_dir.tmp           # what a killed build leaves, gigabytes, goes when the next one starts
    rm -rf "$TMPDIR" && mkdir "$TMPDIR"
    start_or_resume
    (install_all) 2>&1 | tee -a "$env_dir.log"
    rm -rf "$TMPDIR"
    touch "$env_dir/.complete"
fi
if [ -e "$root/.venv" ] && [ ! -L "$root/.venv" ]; then
    die "$root/.venv exists and is not a link made by this script; move it away or use --active"
fi
ln -sfn "$env_dir" "$root/.venv"
log "ready: $root/.venv -> $env_dir"
