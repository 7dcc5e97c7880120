"""Several models on clean data and with one sensor silenced, side by side."""
from pathlib import Path

from ..apis.failing_sensors import MODALITIES
from ..evaluation.nuscenes_scores import CAPTION, nuscenes_scores
from ..utils.atomic_file import atomic_path
from ..utils.tables import markdown_table, write_csv
from .result_store import stored_test


def compare_models(models, modalities=MODALITIES, out='work_dirs/compare', drop_router=False, trust_checkpoint=False):
    """Test every model with every modality; write `comparison.md` and `comparison.csv`.

    Tests that `out` holds already are not repeated, so an interrupted comparison goes on where it stopped.

    Args:
        models (dict[str, tuple[mmcv.Config, str]]): name -> config and checkpoint.
        modalities (Sequence[str]): see `with_modality`.
        out (str | Path): folder for results and tables.
        drop_router, trust_checkpoint: see `run_test`.

    Returns:
        str: the table in markdown, a column per test, with its caption.

    Raises:
        FileNotFoundError, ValueError: see `stored_test`.
    """
    out, rows = Path(out), []
    tests = [(name, modality) for name in models for modality in modalities]
    for number, (name, modality) in enumerate(tests, 1):
        print(f'[{number}/{len(tests)}] {name}, {modality}', flush=True)
        record = stored_test(*models[name], modality, out / 'results', drop_router, trust_checkpoint)
        print(f'{"kept from an earlier run" if record["reused"] else "tested"}: {record["seconds"]:.0f} s\n')
        rows.append(dict(model=name, modality=modality, **nuscenes_scores(record['metrics'])))
    write_csv(out / 'comparison.csv', rows)
    columns = {f'{row["model"]}, {row["modality"]}': row for row in rows}
    names = [name for name in rows[0] if name not in ('model', 'modality')]
    table = markdown_table([dict(metric=name, **{title: row[name] for title, row in columns.items()})
                            for name in names])
    table += f'\n\nboth: clean; lidar: all images zero; camera: all points at the origin. {CAPTION}'
    with atomic_path(out / 'comparison.md') as temporary:
        temporary.write_text(f'{table}\n')
    return table
