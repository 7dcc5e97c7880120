#!/usr/bin/env bash
# The whole job on synthetic data in nuScenes' format: environment, data, info files, a router for the baseline in this
# repository, which stays as it is, test of both while sensors lie and fall silent, pictures.
#
# Steps that are done are skipped, so it can be interrupted at any time and run again. With another baseline, config or
# data it trains, tests and draws anew. Everything lies in data/nuscenes_synthetic and work_dirs/quickstart; remove them
# to start afresh.
# Environment variables: those of tools/setup_env.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# = 0 ] || { sed -n '2,8s/^# \{0,1\}//p' tools/quickstart.sh; [ "$*" = --help ] && exit 0 || exit 2; }

data=data/nuscenes_synthetic work=work_dirs/quickstart
baseline_config=configs/cmt_synthetic.py baseline=checkpoints/cmt_synthetic.pth
aqr_config=configs/cmt_aqr_plug_in_quickstart.py aqr=$work/aqr/latest.pth
cases='stale_lidar@3 lidar_turn:10 stale_views:3@3 glare@3 lidar_drop camera_drop'
# The model is small: threads would mostly wait for each other, on a busy machine ten times as long as they work.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONUNBUFFERED=1        # progress shows as it is made
mkdir -p "$work"
exec 8> "$work/.lock"          # also held by what a killed quickstart left running
flock -n 8 || { echo 'waiting for another quickstart to end'; flock 8; }

# step TITLE STAMP COMMAND...: skipped where the file STAMP exists, which appears when COMMAND has succeeded.
step() {
    local title=$1 stamp=$2 start=$SECONDS; shift 2
    if [ -n "$stamp" ] && [ -e "$stamp" ]; then
        printf '== %s: done before\n' "$title"
        return
    fi
    printf '== %s\n' "$title"
    "$@"
    [ -z "$stamp" ] || touch "$stamp"
    printf '== %s: %d s\n' "$title" $((SECONDS - start))
}

# filtered NAME PATTERN SCRIPT...: runs a Python script; shows only lines that match, in case of an error its end.
filtered() {
    local log=$work/$1.txt pattern=$2; shift 2
    "$python" "$@" 2>&1 | tee "$log" | show "$pattern" || { tail -n 20 "$log"; return 1; }
}
# show PATTERN: passes on the lines that match, at once (some awks wait for more). Of the many numbers in a line of training
# it shows where it is, the time left and the loss.
show() {
    local line text name
    while IFS= read -r line; do
        [[ $line =~ $1 ]] || continue
        text=${line:0:160}
        if [[ $line =~ Iter\ \[[0-9]+/[0-9]+\] ]]; then
            text=${BASH_REMATCH[0]}
            for name in eta loss_aqr; do
                [[ $line =~ [[:space:],]($name:\ [^,]*) ]] && text+=", ${BASH_REMATCH[1]}"
            done
        fi
        printf '%s\n' "$text"
    done
}
generate() {
    "$python" tools/make_synthetic_nuscenes.py --out $data --version v1.0-mini
}
create_infos() {
    "$python" tools/create_data.py nuscenes --root-path $data --version v1.0-mini --out-dir $data --extra-tag nuscenes \
        --no-gt-database
}
# digest FILE...: 16 hex digits that change with the contents of the files and of the configs.
digest() { find configs -name '*.py' | LC_ALL=C sort | xargs cat "$@" | sha256sum | cut -c1-16; }

teach_router() {
    [ -e $work/aqr/.started_$inputs ] || rm -rf $work/aqr    # never go on with what began from something else
    mkdir -p $work/aqr
    touch $work/aqr/.started_$inputs
    filtered train '(^looked at | - Iter )' tools/train_router.py $aqr_config $baseline --work-dir $work/aqr
}
compare() {
    filtered robustness '^[[][0-9]+/' tools/test_robustness.py $aqr_config $aqr --controls off learned --cases $cases \
        --out $work/robustness
}
draw() {
    rm -rf $work/pictures
    "$python" tools/demo.py $baseline_config $baseline --sample 0 10 --out $work/pictures/baseline
    "$python" tools/demo.py $aqr_config $aqr --sample 0 10 --out $work/pictures/aqr
    "$python" tools/visualize_bias.py $aqr_config $aqr --sample 0 --case glare:3@3 --out $work/pictures/router
}

step 'environment' '' tools/setup_env.sh
python=.venv/bin/python
[ "${CMT_AQR_ACTIVE:-0}" != 1 ] || python=$(command -v "${PYTHON:-python}")
step 'synthetic data' $data/v1.0-mini generate
step 'info files' $data/nuscenes_infos_val.pkl create_infos
inputs=$(digest $baseline $data/nuscenes_infos_train.pkl)
step 'a router for the baseline' $work/aqr/.finished_$inputs teach_router
step 'test without and with it' '' compare
drawn=$(digest $baseline $aqr $data/nuscenes_infos_val.pkl)
step 'pictures' $work/pictures/.finished_$drawn draw

printf '\n'
cat $work/robustness/robustness.md
printf '\n(off: the baseline; learned: with its router.) For spreadsheets: %s\npictures:\n' $work/robustness/robustness.csv
ls $work/pictures/*/*.png
printf '\nOpen %s: what the router decided, clean and with three cameras that are dazzled.\n' \
    $work/pictures/router/report.html
printf '\n%d s in all\n' $SECONDS
