#!/usr/bin/env python
"""Does routing help where sensors fail? The whole experiment on the synthetic set: tools/ablation.py [options]

Makes the data, trains baselines, trains every arm from them and tests it under every failure, then writes tables and a
figure. Safe to interrupt: what is finished is kept in --out and not repeated.
"""
import os
import os.path as osp
import subprocess
import sys

import command_line

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch: the jobs share the cores

DATA = 'data/nuscenes_synthetic_trainval'
PLAN = osp.join(command_line.ROOT, 'configs/ablations/sensor_failures.py')


def parse_args():
    parser = command_line.new_parser(__doc__)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2],
                        help='seed 0 starts from the baseline in checkpoints/, others train their own '
                        '(default: 0 1 2)')
    parser.add_argument('--plan', default=PLAN, type=command_line.existing_file, metavar='FILE',
                        help='what is compared, see load_plan (default: configs/ablations/sensor_failures.py)')
    parser.add_argument('--arms', nargs='+', metavar='ARM', help='arms of the plan (default: all of them)')
    parser.add_argument('--cases', nargs='+', type=command_line.failure_case, metavar='CASE',
                        help=f'sensor failures to test under, {command_line.CASES_HELP} (default: those of the plan)')
    parser.add_argument('--out', default='work_dirs/ablation', metavar='DIR',
                        help='folder for runs, results and tables (default: %(default)s)')
    parser.add_argument('--jobs', type=int, default=2,
                        help='trainings and tests at a time, of one thread each (default: %(default)s)')
    parser.add_argument('--train-baselines', action='store_true', help='train one also for seed 0')
    parser.add_argument('--baseline-epochs', type=int, default=7,
                        help='epochs of the baselines that are trained here (default: %(default)s)')
    parser.add_argument('--cfg-options', nargs='+', action=command_line.OptionAction, metavar='KEY=VALUE',
                        help='override settings of all arms')
    parser.add_argument('--report', action='store_true', help='only write tables and figure of what is finished')
    args = parser.parse_args()
    for argument, values in (('--seeds', args.seeds), ('--arms', args.arms), ('--cases', args.cases)):
        command_line.require_different(parser, argument, values)
    return args


def make_data():
    """Make the set of the published baseline; do nothing where it is complete."""
    version = ['--version', 'v1.0-trainval']
    tools = osp.join(command_line.ROOT, 'tools')
    run = [sys.executable, osp.join(tools, 'make_synthetic_nuscenes.py'), '--out', DATA, *version]
    subprocess.run([*run, '--scenes', '380', '--val-scenes', '40', '--samples-per-scene', '5'], check=True)
    if not osp.isfile(f'{DATA}/nuscenes_infos_val.pkl'):
        run = [sys.executable, osp.join(tools, 'create_data.py'), 'nuscenes', '--root-path', DATA, *version]
        subprocess.run([*run, '--extra-tag', 'nuscenes', '--no-gt-database'], check=True)


def main(args):
    from projects.mmdet3d_plugin.experiments.ablation import Ablation, load_plan
    plan = load_plan(args.plan)
    try:
        plan = plan.select(args.arms, args.cases)
    except ValueError as error:
        command_line.refuse(error)
    baselines = {seed: None if args.train_baselines else plan.published_baselines.get(seed) for seed in args.seeds}
    ablation = Ablation(plan, baselines, args.out, arm_options=args.cfg_options, jobs=args.jobs,
                        baseline_options=dict(total_epochs=args.baseline_epochs))
    failed = []
    if not args.report:
        make_data()
        failed = ablation.run()
    message = f'{len(failed)} runs failed: {"; ".join(failed)}. Run again to go on with them' if failed else ''
    try:
        print(f'\n{ablation.report()}\n\nablation.md, .csv, .json and .png are in {args.out}')
    except ValueError as error:
        message = f'{error}. {message}'
    if message:
        sys.exit(message)


if __name__ == '__main__':
    command_line.run(parse_args, main)
