"""Labels beside boxes that keep off each other."""
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

_MARK = 'box label'
_STYLE = dict(fontsize=6.5, color='#8A3A00', clip_on=True, zorder=5, gid=_MARK,
              path_effects=[withStroke(linewidth=1.8, foreground='white', alpha=0.85)],
              arrowprops=dict(arrowstyle='-', linewidth=0.5, color='#8A3A00', alpha=0.6, shrinkA=0, shrinkB=0))
_GAP = 1  # points between a box and its label
_REACH = 12  # lines that a label moves up or down at most


def add_box_label(axes, text, place):
    """Write a text beside a place of axes; `spread_box_labels` finds the room for it."""
    label = axes.annotate(text, place, xytext=(_GAP, _GAP), textcoords='offset points', **_STYLE)
    label.arrow_patch.set_clip_path(axes.patch)  # `clip_on` is for the text alone


def spread_box_labels(figure):
    """Move labels of boxes up, down or to the other side, so that they hide neither each other nor other texts of their
    axes; a line leads back to the place. Earlier ones choose first; one that finds no room near by stays.

    Args:
        figure (Figure): complete, since its layout decides where labels meet; it keeps that layout.
    """
    labels = [text for axes in figure.axes for text in axes.texts if text.get_gid() == _MARK]
    if not labels:
        return
    figure.draw_without_rendering()  # lays out
    figure.set_layout_engine('none')  # another draw would shift axes a little
    taken = {axes: [text.get_window_extent() for text in axes.texts if text not in labels] for axes in figure.axes}
    for label in labels:
        taken[label.axes].append(_settle(label, taken[label.axes]))


def _settle(label, taken):
    """Move a label to the nearest free room; return what it covers (Bbox, pixels)."""
    frame, own = label.axes.bbox, Text.get_window_extent(label)  # an Annotation's own has its line, too
    gap = _GAP * label.figure.dpi / 72  # pixels
    for lines in sorted(range(-_REACH, _REACH + 1), key=lambda lines: (abs(lines), -lines)):
        for across in (0, -own.width - 2 * gap):  # as far from the place on the left as on the right
            shift = across, lines * own.height
            moved = own.translated(*shift)
            is_inside = frame.x0 <= moved.x0 and moved.x1 <= frame.x1 and frame.y0 <= moved.y0 and moved.y1 <= frame.y1
            if is_inside and not any(moved.overlaps(other) for other in taken):
                label.set_position([_GAP + pixels * 72 / label.figure.dpi for pixels in shift])
                return moved
    return own
