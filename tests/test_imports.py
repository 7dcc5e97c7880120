"""Directions of import between the rooms of the plugin, and what its torch-only rooms need."""
import ast
import subprocess
import sys

import pytest

# A room may import rooms of earlier tiers; within a tier, one direction between two rooms.
TIERS = (('compat', 'package_names'), ('utils', ), ('core', ), ('datasets', 'synthetic', 'models', 'evaluation'),
         ('hooks', 'apis', 'visualization'), ('experiments', ))
TIER = {room: number for number, rooms in enumerate(TIERS) for room in rooms}
# Inside models/utils, from the bottom to the top.
MODEL_PARTS = ('token_layout', 'geometry', 'grid_mask', 'attention', 'weight_maps', 'attention_bias_generator', 'aqr',
               'transformer')


def modules(repo_root):
    """Pairs (path below the plugin as a tuple without suffix, module's tree)."""
    plugin = repo_root / 'projects/mmdet3d_plugin'
    for path in sorted(plugin.rglob('*.py')):
        yield path.relative_to(plugin).with_suffix('').parts, ast.parse(path.read_text())


def relative_imports(parts, tree):
    """Targets (tuples of path parts below the plugin) of the relative imports anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[:len(parts) - node.level]
            target = base + tuple((node.module or '').split('.') if node.module else ())
            if node.module is None:  # from . import a, b
                yield from (target + (alias.name, ) for alias in node.names)
            else:
                yield target


def edges(repo_root):
    """All imports as (importing module, imported module), the package's own __init__ left out."""
    return [(parts, target) for parts, tree in modules(repo_root) if parts != ('__init__', )
            for target in relative_imports(parts, tree)]


def test_every_room_has_its_tier(repo_root):
    rooms = {path.stem for path in (repo_root / 'projects/mmdet3d_plugin').iterdir()}
    assert rooms - {'__pycache__', '__init__'} == set(TIER)


def test_imports_go_down(repo_root):
    rooms = {(parts[0], target[0]) for parts, target in edges(repo_root) if target[0] in TIER}
    upward = [(source, target) for source, target in rooms if TIER[target] > TIER[source]]
    assert not upward, f'imports against the direction: {upward}'
    both_ways = [pair for pair in rooms if pair[0] < pair[1] and pair[::-1] in rooms]
    assert not both_ways, f'rooms that import each other: {both_ways}'


def test_the_package_imports_itself_relatively(repo_root):
    """Under any of its names; an absolute import would load a second copy."""
    for parts, tree in modules(repo_root):
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
                node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            roots = {name.split('.')[0] for name in names}
            assert not roots & {'projects', 'cmt_aqr', 'tools', 'benchmarks'}, parts


def test_modules_are_imported_by_name_where_names_come_from_users(repo_root):
    """Elsewhere it would hide a direction."""
    allowed = {('package_names', ), ('apis', 'config')}
    for parts, tree in modules(repo_root):
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == 'import_module'
                 or isinstance(node, ast.Name) and node.id in ('import_module', '__import__')]
        assert not calls or parts in allowed, parts


@pytest.mark.parametrize('folder', ['projects', 'tools', 'benchmarks', 'tests'])
def test_functions_are_short(repo_root, folder):
    for path in sorted((repo_root / folder).rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f'{path}: {node.name} has {length} lines'


def test_there_is_no_circle(repo_root):
    """Module by module: names are looked up in the modules that exist."""
    known = {parts for parts, _ in modules(repo_root)}
    graph = {}
    for parts, target in edges(repo_root):
        ends = [target, target[:-1]]
        module = next((end for end in ends if end in known and end != parts), None)
        if module is not None:
            graph.setdefault(parts, set()).add(module)
    done, path = set(), []

    def visit(module):
        if module in path:
            raise AssertionError(f'circle: {path[path.index(module):]}')
        if module not in done:
            path.append(module)
            for target in graph.get(module, ()):
                visit(target)
            done.add(path.pop())

    for module in graph:
        visit(module)


def test_parts_of_the_model_go_up_one_way(repo_root):
    order = {name: number for number, name in enumerate(MODEL_PARTS)}
    for parts, target in edges(repo_root):
        if parts[:2] == ('models', 'utils') == target[:2] and len(parts) > 2 < len(target):
            source, imported = parts[2], target[2]
            if source != '__init__' and source != imported:
                assert order[imported] < order[source], f'{"/".join(parts)} imports {imported}'


@pytest.mark.parametrize('statement', [
    'from utils.attention import AttentionBias, fused_attention, reference_attention',
    'from utils.attention.multi_head import ScaledDotProductMHA',
    'from utils.attention_bias_generator import AttentionBiasGenerator'])
def test_rooms_of_attention_and_bias_need_torch_alone(repo_root, statement):
    """As benchmarks on a bare GPU machine load them: from the folder above, without mmcv and its relatives."""
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmcv', 'mmdet', 'mmdet3d', 'mmseg', 'spconv', 'nuscenes'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(repo_root / 'projects/mmdet3d_plugin/models')!r})
{statement}
import torch
from utils.attention_bias_generator import AttentionBiasGenerator
from utils.attention import fused_attention, reference_attention
bias = AttentionBiasGenerator((2, 3), (1, 2, 2)).compact(torch.rand(1, 4), torch.rand(1, 4))
q, k, v = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 10, 8), torch.randn(1, 2, 10, 8)
torch.testing.assert_close(fused_attention(q, k, v, bias), reference_attention(q, k, v, bias.dense()[:, None])[0])
print('served')
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout == 'served\n', done.stderr
