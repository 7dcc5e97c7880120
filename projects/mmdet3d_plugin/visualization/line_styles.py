"""Colour and marker of each line of a plot."""

# Okabe and Ito's palette, told apart with all common forms of colour blindness, and markers of their own.
LINE_STYLES = (('#000000', 'o'), ('#56B4E9', 's'), ('#D55E00', '^'), ('#009E73', 'D'), ('#CC79A7', 'v'),
               ('#0072B2', 'P'), ('#E69F00', 'X'))
