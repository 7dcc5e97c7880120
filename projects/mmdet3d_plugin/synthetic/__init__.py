from .nuscenes_writer import SPLITS, folder_size, write_nuscenes  # noqa: F401
