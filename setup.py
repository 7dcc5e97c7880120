"""Packaging: the plugin in projects/mmdet3d_plugin is installed as the package `cmt_aqr`, and nothing else is."""
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PLUGIN = 'projects/mmdet3d_plugin'

setup(
    name='cmt-aqr',
    version=re.search(r"^__version__ = '(.+)'$", (ROOT / PLUGIN / '__init__.py').read_text(), re.MULTILINE).group(1),
    description='Adaptive modality weighting (AQR attention bias) for the CMT LiDAR-camera 3D detector, '
    'as an mmdetection3d 1.0 plugin',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    keywords='3D object detection, sensor fusion, LiDAR, camera, transformer, nuScenes',
    packages=['cmt_aqr', *(f'cmt_aqr.{name}' for name in find_packages(PLUGIN))],
    package_dir={'cmt_aqr': PLUGIN},
    python_requires='==3.11.*',
    # No dependencies here on purpose. mmcv-full has to be compiled against the torch that is already installed, and
    # mmdet3d has to be installed without its own pins, which do not exist for Python 3.11. pip's resolver can do
    # neither, so the pins live in requirements.txt and tools/setup_env.sh installs them in order.
    install_requires=[],
    # `--rrd` of the tools; numpy stays below 2 for the rest.
    extras_require=dict(viewer=['rerun-sdk==0.23.1', 'pyarrow<24']),
    zip_safe=False,
)
