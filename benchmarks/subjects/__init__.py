"""One file per subject, each with `build(settings)`; what they share is in scenes.py."""
import projects.mmdet3d_plugin  # noqa: F401  (here, so that it comes before the subjects' mm imports, see its compat.py)
