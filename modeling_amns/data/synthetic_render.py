"""Draws the people of `synthetic-pedes`: a stylised figure from the front, the back or a side. No words.

Lengths are in units: a figure is about 112 units tall, x runs from its middle axis, y from the top of the image.
A side view is drawn facing right and flipped for the other side.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from .synthetic_camera import CAMERAS, HEIGHT, Shot, draw_background, draw_occluder, photograph
from .synthetic_people import NONE, Person, near_side

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

COLOURS: dict[str, Colour] = {
    "black": (30, 30, 34), "white": (238, 238, 236), "grey": (134, 136, 140), "red": (206, 28, 38),
    "orange": (242, 124, 22), "yellow": (246, 216, 48), "green": (36, 132, 62), "blue": (44, 110, 222),
    "navy": (30, 42, 104), "purple": (124, 52, 158), "pink": (246, 150, 190), "brown": (108, 66, 38),
    "beige": (214, 190, 148),
}  # fmt: skip
HAIR_COLOURS: dict[str, Colour] = {
    "black": (26, 23, 23), "brown": (98, 62, 36), "blond": (226, 190, 112), "grey": (172, 172, 174),
    "red": (158, 68, 30),
}  # fmt: skip
SKINS: tuple[Colour, ...] = ((240, 205, 180), (228, 186, 156), (208, 164, 130), (172, 124, 92), (122, 84, 62))
LIGHT_TOP = 140


@dataclass(frozen=True)
class Body:
    """What a person is made of that no caption names; the same in every image of the person."""

    skin: Colour
    width: float
    height: float
    shades: dict[str, Colour]
    trim: Colour


def draw_body(seed: int, identity: int, person: Person) -> Body:
    """The body of a person and the exact shades of the clothes, the same for all images."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 13, identity]))
    shades = {}
    for part in ("top", "inner", "lower", "shoes", "bag", "hat", "scarf", "carried"):
        word = getattr(person, f"{part}_colour")
        gain, shift = rng.uniform(0.9, 1.08), rng.uniform(-6, 6, 3)
        if word != NONE:
            shades[part] = tuple(int(np.clip(v * gain + s, 0, 250)) for v, s in zip(COLOURS[word], shift))
    skin = SKINS[int(rng.choice(len(SKINS), p=(0.28, 0.3, 0.22, 0.12, 0.08)))]
    light = ((238, 238, 236), (232, 226, 200), (236, 236, 240))
    dark = ((28, 28, 32), (34, 42, 96), (120, 24, 30))
    bright = sum(shades["top"]) / 3 > LIGHT_TOP
    trim = (dark if bright else light)[int(rng.integers(3))]
    width = rng.uniform(0.92, 1.1) * (1.0 if person.gender == "man" else 0.93)
    height = rng.uniform(0.97, 1.02) * (1.0 if person.gender == "man" else 0.97)
    return Body(skin, float(width), float(height), shades, trim)


def _edge(colour: Colour) -> Colour:
    if sum(colour) < 180:
        return tuple(value + 26 for value in colour)
    return tuple(int(value * 0.7) for value in colour)


def _darker(colour: Colour, factor: float = 0.82) -> Colour:
    return tuple(int(value * factor) for value in colour)


class _Pen:
    """Draws in the figure's units onto a transparent layer."""

    def __init__(self, size: tuple[int, int], unit: float, shot: Shot, height: float, flip: int):
        self.size, self.unit = size, unit * shot.scale
        self.x0 = size[0] / 2 + shot.dx * unit
        self.y0 = (64 + shot.dy) * unit
        self.tall, self.flip = height, flip
        self.layer = Image.new("RGBA", size, (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.layer)

    def place(self, points: Points) -> Points:
        unit, tall = self.unit, self.unit * self.tall
        return [(self.x0 + x * unit * self.flip, self.y0 + (y - 64) * tall) for x, y in points]

    def _outlined(self, paint, colour: Colour, pattern: tuple[str, Colour] | None) -> None:
        paint(self.draw, (*colour, 255), _edge(colour))
        if pattern:
            mask = Image.new("L", self.size, 0)
            paint(ImageDraw.Draw(mask), 255, None)
            self.layer.paste((*pattern[1], 255), mask=ImageChops.multiply(mask, self._tile(pattern[0])))

    def _tile(self, kind: str) -> Image.Image:
        tile = Image.new("L", self.size, 0)
        draw, step = ImageDraw.Draw(tile), 6.4 * self.unit
        if kind == "stripes":
            for y in np.arange(self.y0 % step - step, self.size[1], step):
                draw.rectangle((0, y, self.size[0], y + step * 0.46), 255)
        else:
            for y in np.arange(self.y0 % step - step, self.size[1], step):
                draw.rectangle((0, y, self.size[0], y + step * 0.3), 190)
            for x in np.arange(self.x0 % step - step, self.size[0], step):
                draw.rectangle((x, 0, x + step * 0.3, self.size[1]), 190)
        return tile

    def polygon(self, points: Points, colour: Colour, pattern: tuple[str, Colour] | None = None) -> None:
        placed, width = self.place(points), max(1, round(0.45 * self.unit))

        def paint(draw, fill, edge):
            draw.polygon(placed, fill)
            if edge:
                draw.line([*placed, placed[0]], edge, width, joint="curve")

        self._outlined(paint, colour, pattern)

    def limb(self, points: Points, widths: tuple[float, ...], colour: Colour, pattern=None) -> None:
        """A chain of tapered segments with round joints; `widths` are full widths at the points."""
        placed = self.place(points)
        radii = [width * self.unit / 2 for width in widths]

        def chain(draw, fill, grow):
            for (x, y), radius in zip(placed, radii):
                r = radius + grow
                draw.ellipse((x - r, y - r, x + r, y + r), fill)
            for (xa, ya), (xb, yb), ra, rb in zip(placed, placed[1:], radii, radii[1:]):
                length = max(np.hypot(xb - xa, yb - ya), 1e-6)
                nx, ny = (ya - yb) / length, (xb - xa) / length
                ra, rb = ra + grow, rb + grow
                draw.polygon(
                    [(xa + nx * ra, ya + ny * ra), (xb + nx * rb, yb + ny * rb), (xb - nx * rb, yb - ny * rb),
                     (xa - nx * ra, ya - ny * ra)], fill,
                )  # fmt: skip

        def paint(draw, fill, edge):
            if edge:
                chain(draw, (*edge, 255), 0.4 * self.unit)
            chain(draw, fill, 0.0)

        self._outlined(paint, colour, pattern)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        (cx, cy), rx, ry = self.place([(x, y)])[0], rx * self.unit, ry * self.unit
        self.draw.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), (*colour, 255))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, radius: float = 0.0) -> None:
        (xa, ya), (xb, yb) = self.place([(x0, y0), (x1, y1)])
        xa, xb = min(xa, xb), max(xa, xb)
        edge, width = (*_edge(colour), 255), max(1, round(0.45 * self.unit))
        self.draw.rounded_rectangle((xa, ya, xb, yb), radius * self.unit, (*colour, 255), edge, width)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        self.draw.line(self.place(points), (*colour, 255), max(1, round(width * self.unit)), joint="curve")


class _Figure:
    """Draws one person part by part, from the farthest to the nearest."""

    def __init__(self, pen: _Pen, person: Person, body: Body, shot: Shot):
        self.pen, self.person, self.body, self.view, self.stride = pen, person, body, shot.view, shot.stride
        self.side = near_side(shot.view) is not None
        self.shade = body.shades
        self.hair = HAIR_COLOURS.get(person.hair_colour, _darker(body.skin, 0.94))
        self.pattern = (person.pattern, body.trim) if person.pattern in ("stripes", "checked") else None
        woman = person.gender == "woman"
        self.shoulder, self.waist, self.hip = [
            half * body.width for half in ((10.0, 7.4, 9.6) if woman else (11.8, 9.6, 9.4))
        ]
        self.layered = person.top in ("jacket", "coat")
        self.hem = {"coat": 86.0, "dress": 84.0, "hoodie": 65.0, "jacket": 65.0}.get(person.top, 63.0)
        # In front and back views +1 is the right of the image; in side views the side that faces the camera is near.
        person_left = 1 if shot.view == "front" else -1
        self.bag_x = person_left if person.bag_side == "left" else -person_left
        self.bag_near = not self.side or person.bag_side == near_side(shot.view)
        self.hands: dict[int, tuple[float, float]] = {}

    def draw(self) -> None:
        person, view = self.person, self.view
        if person.hair == "long" and view != "back":
            self._long_hair_behind()
        if person.carried == "suitcase":
            self._suitcase()
        if self.side:
            self._arm_side(near=False)
        self._legs()
        if self.side and person.bag == "backpack":
            self._backpack_side()
        self._torso()
        if self.side:
            self._arm_side(near=True)
        else:
            for x in (-1, 1):
                self._arm(x)
        self._bag()
        self._neck_things()
        self._head()
        self._carried()

    # legs and feet

    def _legs(self) -> None:
        stride = self.stride
        if self.side:
            reach = 3.0 + 8.5 * abs(stride)
            far = [(-0.5, 60), (-reach * 0.35 + 1.5, 86), (-reach, 112 - abs(stride) * 2.5)]
            near = [(0.5, 60), (reach * 0.55 + 1.2, 86), (reach, 112)]
            legs = [(far, 0.8), (near, 1.0)]
        else:
            lift = 3.2 * stride
            x = 4.7 * self.body.width
            left = [(-x, 60), (-x - 0.6, 86 - max(lift, 0) * 0.5), (-x - 0.4, 112 - max(lift, 0))]
            right = [(x, 60), (x + 0.6, 86 + min(lift, 0) * 0.5), (x + 0.4, 112 + min(lift, 0))]
            legs = [(left, 1.0), (right, 1.0)]
        for points, light in legs:
            self._leg(points, light)
        if self.person.lower == "skirt":
            colour, flare = self.shade["lower"], (8.5 if self.side else self.hip + 2.5)
            self.pen.polygon([(-7, 55), (7, 55), (flare, 83), (-flare, 83)], colour)
            for x in (-0.45, 0.1, 0.5):
                self.pen.line([(x * 8, 66), (x * flare * 1.2, 82)], 0.5, _edge(colour))

    def _leg(self, points: Points, light: float) -> None:
        person, (hip, knee, ankle) = self.person, points
        skin = _darker(self.body.skin, light)
        if person.lower == "trousers":
            colour = _darker(self.shade["lower"], light)
            self.pen.limb([hip, knee, ankle], (9.4, 7.6, 6.4), colour)
        else:
            self.pen.limb([hip, knee, ankle], (8.4, 6.2, 4.4), skin)
            if person.lower == "shorts":
                above = (knee[0], min(knee[1] - 3.0, 84))
                self.pen.limb([hip, above], (9.8, 9.2), _darker(self.shade["lower"], light))
        self._shoe(ankle, knee, _darker(self.shade["shoes"], light))

    def _shoe(self, ankle: tuple[float, float], knee: tuple[float, float], colour: Colour) -> None:
        x, y = ankle
        if self.person.shoes == "boots":
            top = (x + (knee[0] - x) * 0.45, y + (knee[1] - y) * 0.45)
            self.pen.limb([top, (x, y + 2)], (7.2, 6.6), colour)
        if self.side:
            self.pen.polygon([(x - 3.4, y), (x + 2.5, y), (x + 7.8, y + 4), (x + 7.8, y + 6.5), (x - 3.6, y + 6.5)], colour)
            if self.person.shoes == "sneakers":
                self.pen.line([(x - 3.4, y + 6.4), (x + 7.6, y + 6.4)], 1.0, (225, 225, 222))
        else:
            out = 0.8 if x > 0 else -0.8
            self.pen.ellipse(x + out, y + 4, 4.3, 4.2, _edge(colour))
            self.pen.ellipse(x + out, y + 3.8, 3.8, 3.7, colour)

    # clothes of the upper body

    def _torso(self) -> None:
        person, pen, colour = self.person, self.pen, self.shade["top"]
        flared = person.top in ("coat", "dress")
        if self.side:
            low = 9.0 if flared else 7.2
            outline = [(-4.5, 28), (4, 28), (7.6, 36), (6.6, 50), (7.2, 62), (low, self.hem), (-low, self.hem)]
            outline += [(-7.2, 62), (-6.4, 50), (-7.8, 37)]
        else:
            low = self.hip + (2.6 if flared else 0.4)
            right = [(3.4, 26.5), (self.shoulder, 30), (self.shoulder, 38), (self.waist, 51), (self.hip, 62), (low, self.hem)]
            outline = right + [(-x, y) for x, y in reversed(right)]
        pen.box(-2.9 + self.side, 22, 2.9 + self.side, 30, _darker(self.body.skin, 0.88))
        pen.polygon(outline, colour, self.pattern)
        seam = _edge(colour)
        if person.top == "dress":
            pen.line([(-self.waist, 54), (self.waist, 54)], 1.2, seam)
        if self.view == "front":
            self._front_of_top(colour, seam)
        elif self.view == "back":
            if person.top == "hoodie":
                pen.polygon([(-6.5, 27), (6.5, 27), (5, 37), (0, 40), (-5, 37)], _darker(colour, 0.85))
            elif self.layered:
                pen.line([(0, 50), (0, self.hem)], 0.6, seam)
                pen.line([(-self.shoulder + 1, 34), (self.shoulder - 1, 34)], 0.5, seam)
        elif person.top == "hoodie":
            pen.polygon([(-6, 26), (0, 27), (-2, 36), (-7.5, 35)], _darker(colour, 0.85))
        if self.view != "back" and person.top not in ("coat", "dress"):
            pen.line([(-low + 1, self.hem - 1.6), (low - 1, self.hem - 1.6)], 0.6, seam)

    def _front_of_top(self, colour: Colour, seam: Colour) -> None:
        person, pen = self.person, self.pen
        if person.inner_colour != NONE:
            hem = 64 if person.top == "coat" else self.hem - 1
            pen.polygon([(-2.6, 26.5), (2.6, 26.5), (4.6, 34), (3.8, hem), (-3.8, hem), (-4.6, 34)], self.shade["inner"])
            pen.polygon([(-3, 26.5), (-7.2, 29), (-4.6, 42)], _darker(colour, 0.86))
            pen.polygon([(3, 26.5), (7.2, 29), (4.6, 42)], _darker(colour, 0.86))
        elif self.layered or person.top == "shirt":
            pen.line([(0, 29), (0, self.hem)], 0.8, seam)
            pen.polygon([(-3.6, 26), (0, 32), (-5.6, 32)], _darker(colour, 0.86))
            pen.polygon([(3.6, 26), (0, 32), (5.6, 32)], _darker(colour, 0.86))
        elif person.top == "hoodie":
            pen.polygon([(-7, 28), (7, 28), (3.5, 35), (0, 36.5), (-3.5, 35)], _darker(colour, 0.8))
            pen.polygon([(-5, 52), (5, 52), (7, 62), (-7, 62)], _darker(colour, 0.88))
            for x in (-1.8, 1.8):
                pen.line([(x, 35), (x, 43)], 0.7, self.body.trim)
        else:
            pen.ellipse(0, 27, 3.6, 2.8, _darker(self.body.skin, 0.92))
        if person.pattern == "logo":
            y = 45.5 if person.top == "hoodie" else 42
            pen.box(-5, y - 4.5, 5, y + 4.5, self.body.trim, 1.5)
            pen.ellipse(0, y, 2.4, 2.4, colour)

    def _sleeve(self, points: Points, light: float = 1.0) -> None:
        shoulder, elbow, wrist = points
        skin, colour = _darker(self.body.skin, light), _darker(self.shade["top"], light)
        if self.person.top in ("t-shirt", "dress"):
            self.pen.limb(points, (5.6, 4.6, 3.8), skin)
            middle = (shoulder[0] + (elbow[0] - shoulder[0]) * 0.72, shoulder[1] + (elbow[1] - shoulder[1]) * 0.72)
            self.pen.limb([shoulder, middle], (6.8, 7.0), colour, self.pattern)
        else:
            wide = 7.2 if self.layered or self.person.top == "hoodie" else 6.2
            self.pen.limb(points, (wide, wide - 0.6, wide - 1.4), colour, self.pattern)
        self.pen.ellipse(wrist[0], wrist[1] + 2.2, 2.3, 2.7, skin)

    def _arm(self, x: int) -> None:
        shoulder = (x * (self.shoulder - 2.2), 32.0)
        swing = self.stride * x
        elbow, wrist = (x * (self.shoulder + 1.6), 46.0), (x * (self.shoulder + 2.2 - swing), 60.0 - 1.5 * swing)
        if self.person.carried == "phone" and x == -self.bag_x:
            elbow, wrist = (x * (self.shoulder + 3.0), 43.0), (x * 8.6, 27.0)
        self._sleeve([shoulder, elbow, wrist])
        self.hands[x] = (wrist[0], wrist[1] + 2)

    def _arm_side(self, near: bool) -> None:
        swing = 9.0 * self.stride * (1 if near else -1)
        points = [(-0.5, 32.0), (-2.0 + swing * 0.5, 46.0), (1.0 + swing, 59.5 - abs(swing) * 0.2)]
        holds_near = self.bag_near != near  # what is carried is in the hand opposite to the bag
        if self.person.carried == "phone" and holds_near:
            points = [(-0.5, 32.0), (6.0, 42.0), (5.6, 27.0)]
        self._sleeve(points, 1.0 if near else 0.78)
        self.hands[1 if near else -1] = (points[2][0], points[2][1] + 2)

    # bags and things

    def _backpack_side(self) -> None:
        colour = self.shade["bag"]
        self.pen.box(-16.5, 30, -5, 58, colour, 4)
        self.pen.box(-17.5, 43, -10, 56, _darker(colour), 2.5)

    def _bag(self) -> None:
        person, pen = self.person, self.pen
        if person.bag == NONE:
            return
        colour = self.shade["bag"]
        dark = _edge(colour)
        if person.bag == "backpack":
            if self.side:
                pen.line([(-3, 29), (3.6, 36), (1, 46), (-6, 50)], 2.2, colour)
            elif self.view == "front":
                for x in (-1, 1):
                    strap = [(x * 4.6, 27), (x * 7.6, 29), (x * 7.8, 50), (x * 5.2, 48)]
                    pen.polygon(strap, colour)
            else:
                pen.box(-9.4, 30, 9.4, 60, colour, 4)
                pen.box(-7, 45, 7, 57.5, _darker(colour, 0.86), 2)
                pen.line([(-7, 38), (7, 38)], 0.8, dark)
                pen.line([(-2, 29.5), (2, 29.5)], 1.2, dark)
        elif person.bag == "shoulder bag":
            if self.side and not self.bag_near:
                pen.line([(-2, 28), (3, 33)], 1.6, colour)
                return
            x = 0.5 if self.side else self.bag_x * (self.hip + 1.5)
            start = (-1.0, 28) if self.side else (-self.bag_x * 6.5, 28)
            pen.line([start, (x, 58)], 1.8, colour)
            pen.box(x - 6.4, 56, x + 6.4, 70, colour, 2)
            pen.box(x - 6.4, 56, x + 6.4, 61.5, _darker(colour, 0.85), 2)
        elif self.bag_near:
            x, y = self.hands[1 if self.side else self.bag_x]
            pen.line([(x - 3.6, y + 9), (x - 1.5, y + 1), (x + 1.5, y + 1), (x + 3.6, y + 9)], 1.1, dark)
            pen.polygon([(x - 5.2, y + 8), (x + 5.2, y + 8), (x + 6.6, y + 20), (x - 6.6, y + 20)], colour)
            pen.line([(x - 5.4, y + 12), (x + 5.4, y + 12)], 0.7, dark)

    def _suitcase(self) -> None:
        colour, x = self.shade["carried"], (-15.0 if self.side else -self.bag_x * 15.5)
        self.pen.line([(x - 2.5, 92), (x - 2.5, 66), (x + 2.5, 66), (x + 2.5, 92)], 0.9, (90, 90, 94))
        self.pen.box(x - 7, 90, x + 7, 117, colour, 2.2)
        for dx in (-3, 0, 3):
            self.pen.line([(x + dx, 93), (x + dx, 114)], 0.6, _edge(colour))
        for dx in (-5, 5):
            self.pen.ellipse(x + dx, 118, 1.6, 1.6, (30, 30, 32))

    def _carried(self) -> None:
        carried, pen = self.person.carried, self.pen
        holds_near = not self.bag_near
        if carried in (NONE, "suitcase") or (self.side and not holds_near and carried != "phone"):
            return
        key = (1 if holds_near else -1) if self.side else -self.bag_x
        x, y = self.hands[key]
        if carried == "phone" and self.view != "back":
            pen.box(x - 1.9, y - 6.5, x + 1.9, y + 2.0, (24, 24, 28), 0.8)
        elif carried == "bottle":
            pen.box(x - 2.3, y - 3, x + 2.3, y + 8.5, (126, 206, 236), 1.2)
            pen.box(x - 1.3, y - 5.6, x + 1.3, y - 2.8, (245, 245, 245))
        elif carried == "umbrella":
            colour = self.shade["carried"]
            pen.line([(x, y - 5), (x, y + 4)], 1.4, (80, 58, 40))
            pen.polygon([(x - 2.2, y + 1), (x + 2.2, y + 1), (x + 3.2, y + 8), (x + 0.8, y + 40), (x - 0.4, y + 40), (x - 2.6, y + 8)], colour)
            pen.line([(x - 2.6, y + 9), (x + 2.8, y + 7.5)], 0.8, _edge(colour))

    # neck and head

    def _neck_things(self) -> None:
        if self.person.scarf_colour == NONE:
            return
        colour, pen = self.shade["scarf"], self.pen
        pen.limb([(-4.6 + self.side, 28), (4.6 + self.side, 28)], (5.4, 5.4), colour)
        if self.view == "front":
            pen.polygon([(1, 29), (5, 29), (6, 45), (1.6, 45)], _darker(colour, 0.92))
        elif self.side:
            pen.polygon([(3.5, 29), (7, 29), (8, 42), (4.5, 42)], _darker(colour, 0.92))
        else:
            pen.polygon([(-5, 29), (-1, 29), (-1, 42), (-5.4, 42)], _darker(colour, 0.92))

    def _long_hair_behind(self) -> None:
        if self.side:
            self.pen.polygon([(-6, 12), (1, 12), (-1, 30), (-3, 38), (-8.5, 37), (-8, 24)], self.hair)
        else:
            self.pen.box(-8.4, 11, 8.4, 38, self.hair, 5)

    def _head(self) -> None:
        person, pen, skin = self.person, self.pen, self.body.skin
        if self.view == "back":
            self._head_back()
        elif self.side:
            self._head_side()
        else:
            if person.hair != "bald":
                pen.ellipse(0, 15.6, 7.2, 8.4, self.hair)
            pen.ellipse(0, 17.4, 6.1, 7.8, _darker(skin, 0.86))
            pen.ellipse(0, 17.3, 5.8, 7.5, skin)
            if person.hair != "bald":
                pen.polygon([(-6.4, 16), (-6, 9.6), (0, 7.4), (6, 9.6), (6.4, 16), (4.4, 12.4), (-2, 11.6)], self.hair)
            if person.hair == "long":
                for x in (-1, 1):
                    pen.polygon([(x * 5.2, 12), (x * 7.8, 13), (x * 8.6, 36), (x * 5.4, 36), (x * 5.6, 20)], self.hair)
            if person.hair == "ponytail":
                pen.limb([(6.6, 20), (8.4, 29), (7.6, 38)], (3.4, 4.4, 2.4), self.hair)
            for x in (-2.5, 2.5):
                pen.ellipse(x, 17, 0.9, 0.8, (40, 32, 30))
            pen.line([(-1.6, 22), (1.6, 22)], 0.7, (168, 84, 78))
            if person.face == "glasses":
                for x in (-2.9, 2.9):
                    pen.box(x - 2.5, 15.2, x + 2.5, 19, (22, 22, 26), 1.2)
                pen.line([(-6, 16.4), (6, 16.4)], 0.9, (22, 22, 26))
            elif person.face == "mask":
                pen.polygon([(-6, 18.4), (0, 17.4), (6, 18.4), (4.8, 23.4), (0, 25.6), (-4.8, 23.4)], (222, 236, 242))
        self._hat()

    def _head_back(self) -> None:
        person, pen = self.person, self.pen
        pen.ellipse(0, 17, 6.2, 8, _darker(self.body.skin, 0.92))
        if person.hair == "bald":
            return
        pen.ellipse(0, 15.4, 7.2, 8.2, self.hair)
        if person.hair == "long":
            pen.polygon([(-7.2, 14), (7.2, 14), (8.6, 37), (4, 40), (-4, 40), (-8.6, 37)], self.hair)
        elif person.hair == "ponytail":
            pen.limb([(0, 15), (0.6, 26), (0.2, 38)], (3.2, 5.6, 2.6), self.hair)
            pen.line([(-2, 16), (2, 16)], 1.2, (180, 60, 90))

    def _head_side(self) -> None:
        person, pen, skin = self.person, self.pen, self.body.skin
        pen.ellipse(1, 17, 6.8, 8, skin)
        pen.polygon([(7, 15.5), (9.6, 19), (7, 20)], skin)
        if person.hair != "bald":
            pen.polygon(
                [(4.6, 9.4), (0.6, 7.2), (-4.6, 9), (-7, 14), (-6.4, 20.5), (-3, 22.5), (-1, 17), (1.6, 13.4), (6, 12.4)],
                self.hair,
            )
        if person.hair == "long":
            pen.polygon([(-7, 13), (-0.6, 14), (-0.4, 24), (-1.6, 37), (-8, 37), (-8.4, 24)], self.hair)
        elif person.hair == "ponytail":
            pen.limb([(-6, 13), (-10, 20), (-10.6, 31)], (3.4, 4.6, 2.4), self.hair)
        pen.ellipse(5, 16.8, 0.8, 0.8, (40, 32, 30))
        if person.face == "glasses":
            pen.box(3.6, 15.2, 7.6, 18.8, (22, 22, 26), 1)
            pen.line([(-1.5, 16), (4, 16)], 0.9, (22, 22, 26))
        elif person.face == "mask":
            pen.polygon([(3, 18.4), (9.4, 18.4), (7.8, 24.2), (3, 25)], (222, 236, 242))

    def _hat(self) -> None:
        hat, pen = self.person.hat, self.pen
        if hat == NONE:
            return
        colour = self.shade["hat"]
        x = 0.2 if self.side else 0.0
        if hat == "cap":
            pen.polygon([(x - 7.6, 14.4), (x - 7, 8.6), (x - 3, 5.4), (x + 3, 5.4), (x + 7, 8.6), (x + 7.6, 14.4)], colour)
            if self.side:
                pen.polygon([(6, 12.2), (14, 14), (14, 15.8), (5, 15)], _darker(colour))
            elif self.view == "front":
                pen.polygon([(-7.4, 13), (7.4, 13), (6, 16), (0, 17), (-6, 16)], _darker(colour, 0.8))
        elif hat == "beanie":
            pen.polygon([(x - 7.6, 15), (x - 7.2, 8), (x - 3.6, 3.6), (x + 3.6, 3.6), (x + 7.2, 8), (x + 7.6, 15)], colour)
            pen.box(x - 7.9, 11.6, x + 7.9, 15.6, _darker(colour, 0.86), 1)
        else:
            pen.polygon([(x - 6.6, 12.6), (x - 5.6, 5.4), (x, 3.8), (x + 5.6, 5.4), (x + 6.6, 12.6)], colour)
            pen.ellipse(x, 13, 13.2, 3.0, _edge(colour))
            pen.ellipse(x, 12.7, 12.8, 2.6, colour)


def _shade(layer: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light from one side, and soft folds."""
    pixels = np.asarray(layer, dtype=np.float32).copy()
    coarse = Image.fromarray(rng.uniform(0.86, 1.12, (14, 6)).astype(np.float32))
    folds = np.asarray(coarse.resize(layer.size, Image.Resampling.BICUBIC))
    columns = np.flatnonzero(pixels[..., 3].any(axis=0))
    if columns.size:
        left, right = columns[0], columns[-1]
        across = np.clip((np.arange(layer.width, dtype=np.float32) - left) / max(right - left, 1), 0, 1)
        light = 1.0 + np.float32(rng.choice((-1, 1)) * rng.uniform(0.08, 0.2)) * (across - 0.5) * 2
        folds = folds * light[None, :]
    pixels[..., :3] *= folds[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGBA")


def render_image(person: Person, body: Body, shot: Shot, image_size: tuple[int, int] = (128, 48)) -> Image.Image:
    """The photograph of a person.

    Args:
        person: what to draw.
        body: from `draw_body`, the same for every image of the person.
        shot: from `draw_shot`.
        image_size: (height, width) in pixels.
    Returns:
        An RGB image; the same arguments give the same pixels.
    """
    height, width = image_size
    factor = 3 if height <= 160 else 2
    size, unit = (width * factor, height * factor), height * factor / HEIGHT
    rngs = [np.random.default_rng(np.random.SeedSequence([*shot.noise_seed, part])) for part in range(1, 5)]
    camera = CAMERAS[shot.camera]
    image = draw_background(size, unit, camera, rngs[0])
    pen = _Pen(size, unit, shot, body.height, -1 if shot.view == "left" else 1)
    _Figure(pen, person, body, shot).draw()
    layer = _shade(pen.layer, rngs[1])
    (foot_x, foot_y), reach = pen.place([(0, 119)])[0], 15 * pen.unit
    shadow = Image.new("L", size, 0)
    ImageDraw.Draw(shadow).ellipse((foot_x - reach, foot_y - 3 * pen.unit, foot_x + reach, foot_y + 2 * pen.unit), 90)
    image.paste((20, 20, 24), mask=shadow)
    image.paste(layer, mask=layer.getchannel("A"))
    draw_occluder(image, unit, shot, rngs[2])
    return photograph(image, (width, height), camera, rngs[3])
