"""A pen for the figures of `synthetic-pedes`: outlined shapes in units, onto a transparent layer.

Lengths are in units: a figure is about 112 units tall, x runs from its middle axis to the right, y downwards from the
top of the image.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]
Pattern = tuple[str, Colour]
# Of a layer with transparency, or of a mask.
Ink = tuple[int, int, int, int] | int

MIDDLE = 64.0
# Crops are tight: the figure is drawn a little wider than a body is.
WIDEN = 1.1
OUTLINE = 0.45


def darker(colour: Colour, factor: float = 0.82) -> Colour:
    """The colour in shadow."""
    red, green, blue = colour
    return int(red * factor), int(green * factor), int(blue * factor)


def edge(colour: Colour) -> Colour:
    """A colour for the outline of a shape: darker, or lighter where the shape is nearly black."""
    if sum(colour) < 180:
        red, green, blue = colour
        return red + 26, green + 26, blue + 26
    return darker(colour, 0.7)


class Pen:
    """Draws outlined shapes; later ones cover earlier ones.

    Args:
        size: (width, height) of the layer in pixels.
        unit: pixels per unit, with the size of the figure in it.
        middle: where the point (0, `MIDDLE`) lies on the layer, in pixels.
        tall: factor on heights.
        flip: -1 mirrors left and right, 1 does not.
    """

    def __init__(self, size: tuple[int, int], unit: float, middle: tuple[float, float], tall: float, flip: int):
        self.size, self.unit, self.middle, self.tall, self.flip = size, unit, middle, tall, flip
        self.layer = Image.new("RGBA", size, (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.layer)

    def place(self, points: Points) -> Points:
        """The pixels of points in units."""
        across, down = self.unit * WIDEN * self.flip, self.unit * self.tall
        return [(self.middle[0] + x * across, self.middle[1] + (y - MIDDLE) * down) for x, y in points]

    def polygon(self, points: Points, colour: Colour, pattern: Pattern | None = None) -> None:
        """A filled outline, with a pattern of `stripes` or `checked` in its own colour where one is given."""
        placed, width = self.place(points), self._width(OUTLINE)

        def paint(draw: ImageDraw.ImageDraw, fill: Ink, outline: Ink | None) -> None:
            draw.polygon(placed, fill)
            if outline:
                draw.line([*placed, placed[0]], outline, width, joint="curve")

        self._paint(paint, colour, pattern)

    def limb(self, points: Points, widths: tuple[float, ...], colour: Colour, pattern: Pattern | None = None) -> None:
        """A chain of tapered segments with round joints; `widths` are full widths at the points."""
        placed = self.place(points)

        def chain(draw: ImageDraw.ImageDraw, fill: Ink, grow: float) -> None:
            radii = [(width / 2 + grow) * self.unit for width in widths]
            for (x, y), r in zip(placed, radii):
                draw.ellipse((x - r, y - r, x + r, y + r), fill)
            for (xa, ya), (xb, yb), ra, rb in zip(placed, placed[1:], radii, radii[1:]):
                length = max(((xb - xa) ** 2 + (yb - ya) ** 2) ** 0.5, 1e-6)
                nx, ny = (ya - yb) / length, (xb - xa) / length
                one = [(xa + nx * ra, ya + ny * ra), (xb + nx * rb, yb + ny * rb)]
                other = [(xb - nx * rb, yb - ny * rb), (xa - nx * ra, ya - ny * ra)]
                draw.polygon(one + other, fill)

        def paint(draw: ImageDraw.ImageDraw, fill: Ink, outline: Ink | None) -> None:
            if outline:
                chain(draw, outline, OUTLINE)
            chain(draw, fill, 0.0)

        self._paint(paint, colour, pattern)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """An ellipse about (x, y), without outline."""
        ((cx, cy),), rx, ry = self.place([(x, y)]), rx * self.unit * WIDEN, ry * self.unit
        self.draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), (*colour, 255))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, radius: float = 0.0) -> None:
        """A rectangle with rounded corners."""
        (xa, ya), (xb, yb) = self.place([(x0, y0), (x1, y1)])
        corners = (min(xa, xb), ya, max(xa, xb), yb)
        outline = (*edge(colour), 255)
        # Pillow cannot round corners that meet: in a small image a pair of glasses is a few pixels.
        radius = min(radius * self.unit, max(0.0, min(corners[2] - corners[0], yb - ya) / 2 - 1.0))
        self.draw.rounded_rectangle(corners, radius, (*colour, 255), outline, self._width(OUTLINE))

    def line(self, points: Points, width: float, colour: Colour) -> None:
        """An open line."""
        self.draw.line(self.place(points), (*colour, 255), self._width(width), joint="curve")

    def _width(self, width: float) -> int:
        return max(1, round(width * self.unit))

    def _paint(
        self, paint: Callable[[ImageDraw.ImageDraw, Ink, Ink | None], None], colour: Colour, pattern: Pattern | None
    ) -> None:
        paint(self.draw, (*colour, 255), (*edge(colour), 255))
        if pattern:
            mask = Image.new("L", self.size, 0)
            paint(ImageDraw.Draw(mask), 255, None)
            kind, trim = pattern
            self.layer.paste((*trim, 255), mask=ImageChops.multiply(mask, self._tile(kind)))

    def _tile(self, kind: str) -> Image.Image:
        tile = Image.new("L", self.size, 0)
        draw, step = ImageDraw.Draw(tile), 6.4 * self.unit
        width, height = self.size
        share, strength = (0.46, 255) if kind == "stripes" else (0.3, 190)
        for y in np.arange(self.middle[1] % step - step, height, step):
            draw.rectangle((0, y, width, y + step * share), strength)
        if kind == "checked":
            for x in np.arange(self.middle[0] % step - step, width, step):
                draw.rectangle((x, 0, x + step * share, height), strength)
        return tile
