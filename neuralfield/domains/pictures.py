"""Contact sheets: many small pictures on one page."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 6
CELL = 96
"""Small pictures are enlarged, by whole factors and without smoothing, to about this many pixels a side."""


def sheet(rows: Mapping[str, np.ndarray] | Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """One titled row of pictures [n, height, width, 3] per entry, 8 bit, on white; in a sequence titles may come twice."""
    pairs = list(rows.items()) if isinstance(rows, Mapping) else list(rows)
    font = ImageFont.load_default(size=15)
    factor = max(1, round(CELL / max(max(pictures.shape[1:3]) for _, pictures in pairs)))
    enlarged = [(title, pictures.repeat(factor, 1).repeat(factor, 2)) for title, pictures in pairs]
    left = MARGIN * 2 + max(int(font.getlength(title)) for title, _ in pairs)
    width = left + max(len(p) * (p.shape[2] + MARGIN) for _, p in enlarged)
    height = MARGIN + sum(p.shape[1] + MARGIN for _, p in enlarged)
    page = Image.new("RGB", (width, height), "white")
    pen, top = ImageDraw.Draw(page), MARGIN
    for title, pictures in enlarged:
        pen.text((MARGIN, top + pictures.shape[1] // 2), title, fill="black", font=font, anchor="lm")
        for column, picture in enumerate(pictures):
            page.paste(Image.fromarray(picture), (left + column * (picture.shape[1] + MARGIN), top))
        top += pictures.shape[1] + MARGIN
    return page
