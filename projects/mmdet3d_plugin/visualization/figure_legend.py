"""A legend above a figure, in as many columns as fit."""


def add_legend(figure, handles, labels, title=None):
    """Put one legend for all panels above them, in one row if it is not wider than the figure, in more rows otherwise.

    Args:
        figure (Figure): with a constrained layout.
        handles, labels (Sequence): see `Figure.legend`.
        title (str | None): of the legend.

    Returns:
        Legend
    """
    labels = list(labels)
    columns = len(labels)
    while True:
        legend = figure.legend(handles, labels, loc='outside upper center', ncols=columns, title=title)
        figure.draw_without_rendering()
        if columns <= 1 or legend.get_window_extent().width <= figure.bbox.width:
            return legend
        legend.remove()
        columns -= 1
