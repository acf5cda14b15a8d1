"""Heads of `synthetic-pedes`: hair, face, glasses, masks, hats. Units as in `synthetic_pen`; side views face right."""

from .pen import Colour, Pen, Points, darker, edge
from .people import NONE, Person

HAIR_COLOURS: dict[str, Colour] = {
    "black": (28, 25, 25),
    "brown": (104, 66, 38),
    "blond": (232, 196, 116),
    "grey": (176, 176, 178),
    "red": (168, 72, 30),
}
EYES: Colour = (40, 32, 30)
MOUTH: Colour = (168, 84, 78)
FRAMES: Colour = (22, 22, 26)
LENSES: Colour = (92, 104, 120)
MASK: Colour = (222, 236, 242)
HAIR_BAND: Colour = (180, 60, 90)


class Head:
    """Draws the head of one person in one view (`front`, `back`, else a side)."""

    def __init__(self, pen: Pen, person: Person, skin: Colour, hat_colour: Colour | None, view: str):
        self.pen, self.person, self.skin, self.hat_colour, self.view = pen, person, skin, hat_colour, view
        self.side = view not in ("front", "back")
        self.hair = HAIR_COLOURS.get(person.hair_colour, skin)
        self.hairy = person.hair != "bald"

    def draw_behind(self) -> None:
        """Long hair that falls behind the shoulders; call it before the body."""
        if self.person.hair != "long" or self.view == "back":
            return
        if self.side:
            self.pen.polygon([(-6, 12), (1, 12), (-1, 30), (-3, 38), (-8.5, 37), (-8, 24)], self.hair)
        else:
            self.pen.box(-8.4, 11, 8.4, 38, self.hair, 5)

    def draw(self) -> None:
        """All else; call it after the body."""
        if self.view == "back":
            self._back()
        elif self.side:
            self._side()
        else:
            self._front()
        if self.person.hat != NONE and self.hat_colour is not None:
            self._hat(self.hat_colour)

    def _front(self) -> None:
        pen, hair = self.pen, self.person.hair
        if self.hairy:
            pen.ellipse(0, 15.6, 7.2, 8.4, self.hair)
        pen.ellipse(0, 17.4, 6.1, 7.8, darker(self.skin, 0.86))
        pen.ellipse(0, 17.3, 5.8, 7.5, self.skin)
        if self.hairy:
            fringe: Points = [(-6.4, 16), (-6, 9.6), (0, 7.4), (6, 9.6), (6.4, 16), (4.4, 12.4), (-2, 11.6)]
            pen.polygon(fringe, self.hair)
        if hair == "long":
            for x in (-1, 1):
                pen.polygon([(x * 5.2, 12), (x * 7.8, 13), (x * 8.6, 36), (x * 5.4, 36), (x * 5.6, 20)], self.hair)
        elif hair == "ponytail":
            pen.limb([(6.6, 20), (8.4, 29), (7.6, 38)], (3.4, 4.4, 2.4), self.hair)
        for eye in (-2.5, 2.5):
            pen.ellipse(eye, 17, 0.9, 0.8, EYES)
        pen.line([(-1.6, 22), (1.6, 22)], 0.7, MOUTH)
        if self.person.face == "glasses":
            pen.line([(-6, 16.2), (6, 16.2)], 0.9, FRAMES)
            for lens in (-2.9, 2.9):
                pen.box(lens - 2.5, 15, lens + 2.5, 19, FRAMES, 1.2)
                pen.box(lens - 1.5, 16, lens + 1.5, 18.1, LENSES, 0.6)
        elif self.person.face == "mask":
            pen.polygon([(-6, 18.4), (0, 17.4), (6, 18.4), (4.8, 23.4), (0, 25.6), (-4.8, 23.4)], MASK)

    def _back(self) -> None:
        pen, hair = self.pen, self.person.hair
        pen.ellipse(0, 17, 6.2, 8, darker(self.skin, 0.92))
        if self.hairy:
            pen.ellipse(0, 15.4, 7.2, 8.2, self.hair)
        if hair == "long":
            pen.polygon([(-7.2, 14), (7.2, 14), (8.6, 37), (4, 40), (-4, 40), (-8.6, 37)], self.hair)
        elif hair == "ponytail":
            pen.limb([(0, 15), (0.6, 26), (0.2, 38)], (3.2, 5.6, 2.6), self.hair)
            pen.line([(-2, 16), (2, 16)], 1.2, HAIR_BAND)

    def _side(self) -> None:
        pen, hair = self.pen, self.person.hair
        pen.ellipse(1, 17, 6.8, 8, self.skin)
        pen.polygon([(7, 15.5), (9.6, 19), (7, 20)], self.skin)
        if self.hairy:
            crown: Points = [(4.6, 9.4), (0.6, 7.2), (-4.6, 9), (-7, 14), (-6.4, 20.5), (-3, 22.5)]
            pen.polygon([*crown, (-1, 17), (1.6, 13.4), (6, 12.4)], self.hair)
        if hair == "long":
            pen.polygon([(-7, 13), (-0.6, 14), (-0.4, 24), (-1.6, 37), (-8, 37), (-8.4, 24)], self.hair)
        elif hair == "ponytail":
            pen.limb([(-6, 13), (-10, 20), (-10.6, 31)], (3.4, 4.6, 2.4), self.hair)
        pen.ellipse(5, 16.8, 0.8, 0.8, EYES)
        if self.person.face == "glasses":
            pen.line([(-1.5, 16), (4, 16)], 0.9, FRAMES)
            pen.box(3.4, 15, 7.8, 19, FRAMES, 1)
            pen.box(4.6, 16, 6.8, 18.1, LENSES, 0.6)
        elif self.person.face == "mask":
            pen.polygon([(3, 18.4), (9.4, 18.4), (7.8, 24.2), (3, 25)], MASK)

    def _hat(self, colour: Colour) -> None:
        pen, hat = self.pen, self.person.hat
        if hat == "cap":
            pen.polygon([(-7.6, 14.4), (-7, 8.6), (-3, 5.4), (3, 5.4), (7, 8.6), (7.6, 14.4)], colour)
            if self.side:
                pen.polygon([(6, 12.2), (14, 14), (14, 15.8), (5, 15)], darker(colour))
            elif self.view == "front":
                pen.polygon([(-7.4, 13), (7.4, 13), (6, 16), (0, 17), (-6, 16)], darker(colour, 0.8))
        elif hat == "beanie":
            pen.polygon([(-7.6, 15), (-7.2, 8), (-3.6, 3.6), (3.6, 3.6), (7.2, 8), (7.6, 15)], colour)
            pen.box(-7.9, 11.6, 7.9, 15.6, darker(colour, 0.86), 1)
        else:
            pen.polygon([(-6.6, 12.6), (-5.6, 5.4), (0, 3.8), (5.6, 5.4), (6.6, 12.6)], colour)
            pen.ellipse(0, 13, 13.2, 3.0, edge(colour))
            pen.ellipse(0, 12.7, 12.8, 2.6, colour)
