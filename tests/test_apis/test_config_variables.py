"""Variables of config files are no settings: changing them is refused, with the names of the settings to change."""
import pytest

from projects.mmdet3d_plugin.apis import load_config


@pytest.mark.parametrize('option, value, instead', [
    ('data_root', 'data/other/', 'data.train.data_root'), ('data_root', 'data/other/', 'data.test.ann_file'),
    ('class_names', ['car'], 'data.train.classes'), ('ida_aug_conf.final_dim', (320, 800), 'data_aug_conf')])
def test_options_on_variables_are_refused(repo_root, option, value, instead):
    """The message names the settings that were made of the variable."""
    path = repo_root / 'configs/cmt_synthetic.py'
    with pytest.raises(KeyError, match=f'--cfg-options {option}: .* is a variable of the config file') as error:
        load_config(path, {option: value})
    assert instead in str(error.value)


def test_the_settings_themselves_can_be_set(repo_root):
    cfg = load_config(repo_root / 'configs/cmt_synthetic.py', {'data.test.data_root': 'data/other/'})
    assert cfg.data.test.data_root == 'data/other/'


def test_a_derived_config_that_sets_a_variable_alone(repo_root, tmp_path):
    path = tmp_path / 'derived.py'
    base = repo_root / 'configs/cmt_synthetic.py'
    path.write_text(f"_base_ = {str(base)!r}\ndata_root = 'data/mine/'\n")
    with pytest.raises(KeyError, match='data_root is a variable of .*another value here changes nothing.*data.test'):
        load_config(path)
    path.write_text(f"_base_ = {str(base)!r}\ndata_root = 'data/mine/'\ndata = dict(test=dict(data_root=data_root))\n")
    assert load_config(path).data.test.data_root == 'data/mine/'


def test_every_config_of_the_repository_loads(repo_root):
    for path in sorted((repo_root / 'configs').glob('*.py')):
        load_config(path)
