"""Numbers of a training run from mmcv's JSON logs."""
import fnmatch
import json
from pathlib import Path


def read_training_log(run):
    """Read what a run logged while it trained.

    Args:
        run (str | Path): a `.log.json` file, or a work directory: then all of its logs, as resumed runs leave
            them; where two hold the same iteration, the later one counts.

    Returns:
        dict[int, dict[str, float]]: iteration over all epochs -> number by name. JSON logs count iterations within an
        epoch and do not say how many there are: the last one that any epoch logged is taken to be its last. Beside what
        was logged, `detection_loss` is `loss` without `loss_aqr`, to compare runs with and without supervised router.

    Raises:
        FileNotFoundError: no such file or directory, or no log in it.
        ValueError: a log without lines of training, or with a line that is not JSON.
    """
    run = Path(run)
    paths = sorted(run.glob('*.log.json')) if run.is_dir() else [run]
    if not paths or not all(path.is_file() for path in paths):
        raise FileNotFoundError(f'no .log.json: {run}')
    lines = {}
    for path in paths:
        texts = path.read_text().splitlines()
        for number, text in enumerate(texts, 1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError as error:
                if number == len(texts):
                    break  # a killed run may leave half a line
                raise ValueError(f'{path}, line {number}: not JSON: {error}') from error
            if line.get('mode') == 'train':
                numbers = {name: value for name, value in line.items() if isinstance(value, (int, float))}
                if 'loss' in numbers:
                    numbers['detection_loss'] = numbers['loss'] - numbers.get('loss_aqr', 0.0)
                lines[numbers.pop('epoch'), numbers.pop('iter')] = numbers
    if not lines:
        raise ValueError(f'no lines of training in {", ".join(map(str, paths))}')
    per_epoch = max(iteration for _, iteration in lines)
    return {(epoch - 1) * per_epoch + iteration: lines[epoch, iteration] for epoch, iteration in sorted(lines)}


def curve(log, key):
    """Points `(iteration, value)` of one number.

    Args:
        log (dict): from :func:`read_training_log`.
        key (str): its name; with wildcards the mean of all that match, such as `attention/entropy_*` over layers.
    """
    points = []
    for iteration, numbers in log.items():
        values = [numbers[name] for name in fnmatch.filter(numbers, key)]
        if values:
            points.append((iteration, sum(values) / len(values)))
    return points
