from .frame_pictures import draw_bev, draw_cameras  # noqa: F401
