"""The figure of `synthetic-pedes`: body, clothes, bags and things of one person, seen from the front, back or a side.

Units as in `synthetic_pen`. A side view is drawn facing right; the pen flips it for the other side.
"""

from dataclasses import dataclass

import numpy as np

from .camera import Shot
from .head import Head
from .pen import Colour, Pen, Points, darker, edge
from .people import NONE, Person, near_side

COLOURS: dict[str, Colour] = {
    "black": (30, 30, 34), "white": (242, 242, 240), "grey": (138, 140, 144), "red": (212, 28, 38),
    "orange": (248, 128, 22), "yellow": (250, 222, 48), "green": (36, 138, 64), "blue": (46, 114, 230),
    "navy": (30, 42, 108), "purple": (128, 52, 164), "pink": (250, 154, 194), "brown": (112, 68, 40),
    "beige": (218, 194, 150),
}  # fmt: skip
SKINS: tuple[Colour, ...] = ((242, 208, 184), (230, 188, 158), (210, 166, 132), (176, 126, 94), (126, 86, 64))
SKIN_SHARES = (0.28, 0.3, 0.22, 0.12, 0.08)
SOLE: Colour = (225, 225, 222)
# Trims: what stripes, checks and logos are printed in, on dark and on light cloth.
LIGHT_TRIMS: tuple[Colour, ...] = ((238, 238, 236), (232, 226, 200), (236, 236, 240))
DARK_TRIMS: tuple[Colour, ...] = ((28, 28, 32), (34, 42, 96), (120, 24, 30))
LIGHT_CLOTH = 140


@dataclass(frozen=True)
class Body:
    """What a person is made of that no caption names; the same in every image of the person.

    Attributes:
        skin: colour.
        width, height: factors on the figure.
        shades: the exact colour of each coloured thing the person has.
        trim: colour of the pattern or the logo.
    """

    skin: Colour
    width: float
    height: float
    shades: dict[str, Colour]
    trim: Colour


def draw_body(seed: int, identity: int, person: Person) -> Body:
    """The body of person number `identity` and the exact shades of the clothes."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 13, identity]))
    shades = {}
    for part in ("top", "inner", "lower", "shoes", "bag", "hat", "scarf", "carried"):
        word = getattr(person, f"{part}_colour")
        gain, shift = rng.uniform(0.92, 1.06), rng.uniform(-6, 6, 3)
        if word != NONE:
            red, green, blue = np.clip(np.multiply(COLOURS[word], gain) + shift, 0, 250).astype(int).tolist()
            shades[part] = (red, green, blue)
    trims = DARK_TRIMS if sum(shades["top"]) / 3 > LIGHT_CLOTH else LIGHT_TRIMS
    woman = person.gender == "woman"
    return Body(
        skin=SKINS[int(np.searchsorted(np.cumsum(SKIN_SHARES), rng.random()).clip(0, len(SKINS) - 1))],
        width=float(rng.uniform(0.92, 1.1) * (0.93 if woman else 1.0)),
        height=float(rng.uniform(0.97, 1.02) * (0.97 if woman else 1.0)),
        shades=shades,
        trim=trims[int(rng.integers(len(trims)))],
    )


class Figure:
    """Draws one person in one shot, part by part, from the farthest to the nearest."""

    def __init__(self, pen: Pen, person: Person, body: Body, shot: Shot):
        self.pen, self.person, self.body, self.view, self.stride = pen, person, body, shot.view, shot.stride
        self.side = near_side(shot.view) is not None
        self.shade = body.shades
        self.head = Head(pen, person, body.skin, body.shades.get("hat"), shot.view)
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
        """Draws everything onto the layer of the pen."""
        person = self.person
        self.head.draw_behind()
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
        self.head.draw()
        self._carried()

    # legs and feet

    def _legs(self) -> None:
        stride = self.stride
        if self.side:
            reach = 3.0 + 8.5 * abs(stride)
            far: Points = [(-0.5, 60), (-reach * 0.35 + 1.5, 86), (-reach, 112 - abs(stride) * 2.5)]
            near: Points = [(0.5, 60), (reach * 0.55 + 1.2, 86), (reach, 112)]
            legs: list[tuple[Points, float]] = [(far, 0.8), (near, 1.0)]
        else:
            lift = 3.2 * stride
            x = 4.7 * self.body.width
            left: Points = [(-x, 60), (-x - 0.6, 86 - max(lift, 0) * 0.5), (-x - 0.4, 112 - max(lift, 0))]
            right: Points = [(x, 60), (x + 0.6, 86 + min(lift, 0) * 0.5), (x + 0.4, 112 + min(lift, 0))]
            legs = [(left, 1.0), (right, 1.0)]
        for points, light in legs:
            self._leg(points, light)
        if self.person.lower == "skirt":
            colour, flare = self.shade["lower"], (8.5 if self.side else self.hip + 2.5)
            self.pen.polygon([(-7, 55), (7, 55), (flare, 83), (-flare, 83)], colour)
            for x in (-0.45, 0.1, 0.5):
                self.pen.line([(x * 8, 66), (x * flare * 1.2, 82)], 0.5, edge(colour))

    def _leg(self, points: Points, light: float) -> None:
        person, (hip, knee, ankle) = self.person, points
        skin = darker(self.body.skin, light)
        if person.lower == "trousers":
            colour = darker(self.shade["lower"], light)
            self.pen.limb([hip, knee, ankle], (9.4, 7.6, 6.4), colour)
        else:
            self.pen.limb([hip, knee, ankle], (8.4, 6.2, 4.4), skin)
            if person.lower == "shorts":
                above = (knee[0], min(knee[1] - 3.0, 84))
                self.pen.limb([hip, above], (9.8, 9.2), darker(self.shade["lower"], light))
        self._shoe(ankle, knee, darker(self.shade["shoes"], light))

    def _shoe(self, ankle: tuple[float, float], knee: tuple[float, float], colour: Colour) -> None:
        x, y = ankle
        if self.person.shoes == "boots":
            top = (x + (knee[0] - x) * 0.45, y + (knee[1] - y) * 0.45)
            self.pen.limb([top, (x, y + 2)], (7.2, 6.6), colour)
        if self.side:
            self.pen.polygon(
                [(x - 3.4, y), (x + 2.5, y), (x + 7.8, y + 4), (x + 7.8, y + 6.5), (x - 3.6, y + 6.5)], colour
            )
            if self.person.shoes == "sneakers":
                self.pen.line([(x - 3.4, y + 6.4), (x + 7.6, y + 6.4)], 1.0, SOLE)
        else:
            out = 0.9 if x > 0 else -0.9
            left, right = x - 3.2 + min(out, 0), x + 3.2 + max(out, 0)
            toe = y + (6.8 if self.view == "front" else 5.2)
            self.pen.polygon([(x - 2.6, y - 0.6), (x + 2.6, y - 0.6), (right, toe), (left, toe)], colour)
            if self.person.shoes == "sneakers":
                self.pen.line([(left, toe), (right, toe)], 1.0, SOLE)

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
            right = [(3.4, 26.5), (self.shoulder, 30), (self.shoulder, 38), (self.waist, 51)]
            right += [(self.hip, 62), (low, self.hem)]
            outline = right + [(-x, y) for x, y in reversed(right)]
        pen.box(-2.9 + self.side, 22, 2.9 + self.side, 30, darker(self.body.skin, 0.88))
        pen.polygon(outline, colour, self.pattern)
        seam = edge(colour)
        if person.top == "dress":
            pen.line([(-self.waist, 54), (self.waist, 54)], 1.2, seam)
        if self.view == "front":
            self._front_of_top(colour, seam)
        elif self.view == "back":
            if person.top == "hoodie":
                pen.polygon([(-6.5, 27), (6.5, 27), (5, 37), (0, 40), (-5, 37)], darker(colour, 0.85))
            elif self.layered:
                pen.line([(0, 50), (0, self.hem)], 0.6, seam)
                pen.line([(-self.shoulder + 1, 34), (self.shoulder - 1, 34)], 0.5, seam)
        elif person.top == "hoodie":
            pen.polygon([(-6, 26), (0, 27), (-2, 36), (-7.5, 35)], darker(colour, 0.85))
        if self.view != "back" and person.top not in ("coat", "dress"):
            pen.line([(-low + 1, self.hem - 1.6), (low - 1, self.hem - 1.6)], 0.6, seam)

    def _front_of_top(self, colour: Colour, seam: Colour) -> None:
        person, pen = self.person, self.pen
        if person.inner_colour != NONE:
            hem = 64 if person.top == "coat" else self.hem - 1
            pen.polygon(
                [(-2.6, 26.5), (2.6, 26.5), (4.6, 34), (3.8, hem), (-3.8, hem), (-4.6, 34)], self.shade["inner"]
            )
            pen.polygon([(-3, 26.5), (-7.2, 29), (-4.6, 42)], darker(colour, 0.86))
            pen.polygon([(3, 26.5), (7.2, 29), (4.6, 42)], darker(colour, 0.86))
        elif self.layered or person.top == "shirt":
            pen.line([(0, 29), (0, self.hem)], 0.8, seam)
            pen.polygon([(-3.6, 26), (0, 32), (-5.6, 32)], darker(colour, 0.86))
            pen.polygon([(3.6, 26), (0, 32), (5.6, 32)], darker(colour, 0.86))
        elif person.top == "hoodie":
            pen.polygon([(-7, 28), (7, 28), (3.5, 35), (0, 36.5), (-3.5, 35)], darker(colour, 0.8))
            pen.polygon([(-5, 52), (5, 52), (7, 62), (-7, 62)], darker(colour, 0.88))
            for x in (-1.8, 1.8):
                pen.line([(x, 35), (x, 43)], 0.7, self.body.trim)
        else:
            pen.ellipse(0, 27, 3.6, 2.8, darker(self.body.skin, 0.92))
        if person.pattern == "logo":
            y = 45.5 if person.top == "hoodie" else 42
            pen.box(-5, y - 4.5, 5, y + 4.5, self.body.trim, 1.5)
            pen.ellipse(0, y, 2.4, 2.4, colour)

    def _sleeve(self, points: Points, light: float = 1.0) -> None:
        shoulder, elbow, wrist = points
        skin, colour = darker(self.body.skin, light), darker(self.shade["top"], light)
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
        self.pen.box(-17.5, 43, -10, 56, darker(colour), 2.5)

    def _bag(self) -> None:
        person, pen = self.person, self.pen
        if person.bag == NONE:
            return
        colour = self.shade["bag"]
        dark = edge(colour)
        if person.bag == "backpack":
            if self.side:
                pen.line([(-2.5, 28.5), (2.6, 33), (1.4, 42), (-4, 48)], 2.0, colour)
            elif self.view == "front":
                for half in (-1, 1):
                    strap: Points = [(half * 4.6, 27), (half * 7.6, 29), (half * 7.8, 50), (half * 5.2, 48)]
                    pen.polygon(strap, colour)
            else:
                pen.box(-9.4, 30, 9.4, 60, colour, 4)
                pen.box(-7, 45, 7, 57.5, darker(colour, 0.86), 2)
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
            pen.box(x - 6.4, 56, x + 6.4, 61.5, darker(colour, 0.85), 2)
        elif self.bag_near:
            x, y = self.hands[1 if self.side else self.bag_x]
            pen.line([(x - 3.6, y + 9), (x - 1.5, y + 1), (x + 1.5, y + 1), (x + 3.6, y + 9)], 1.1, dark)
            pen.polygon([(x - 5.2, y + 8), (x + 5.2, y + 8), (x + 6.6, y + 20), (x - 6.6, y + 20)], colour)
            pen.line([(x - 5.4, y + 12), (x + 5.4, y + 12)], 0.7, dark)

    def _suitcase(self) -> None:
        colour, x = self.shade["carried"], (-14.5 if self.side else -self.bag_x * 14.5)
        self.pen.line([(x - 2.5, 92), (x - 2.5, 66), (x + 2.5, 66), (x + 2.5, 92)], 0.9, (90, 90, 94))
        self.pen.box(x - 7, 90, x + 7, 117, colour, 2.2)
        for dx in (-3, 0, 3):
            self.pen.line([(x + dx, 93), (x + dx, 114)], 0.6, edge(colour))
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
            half = [(2.2, 1), (3.0, 8), (0.6, 40)]
            pen.polygon([(x + a, y + b) for a, b in half] + [(x - a, y + b) for a, b in reversed(half)], colour)
            pen.line([(x - 2.6, y + 9), (x + 2.8, y + 7.5)], 0.8, edge(colour))

    # neck

    def _neck_things(self) -> None:
        if self.person.scarf_colour == NONE:
            return
        colour, pen = self.shade["scarf"], self.pen
        pen.limb([(-4.6 + self.side, 28), (4.6 + self.side, 28)], (5.4, 5.4), colour)
        if self.view == "front":
            pen.polygon([(1, 29), (5, 29), (6, 45), (1.6, 45)], darker(colour, 0.92))
        elif self.side:
            pen.polygon([(3.5, 29), (7, 29), (8, 42), (4.5, 42)], darker(colour, 0.92))
        else:
            pen.polygon([(-5, 29), (-1, 29), (-1, 42), (-5.4, 42)], darker(colour, 0.92))
