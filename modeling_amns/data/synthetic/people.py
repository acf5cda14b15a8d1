"""The people of `synthetic-pedes`: who they are, what they wear, and what of it a view shows. No pixels, no words.

A person is a flat record of named attributes. About half of all people come in groups of look-alikes that share all
but about three of them, as the hard negatives of the real benchmarks do.
"""

from dataclasses import dataclass, fields, replace

import numpy as np

from ..records import SPLITS

VIEWS = ("front", "back", "left", "right")
NONE = "none"

# Share of people drawn as members of a look-alike group is 3p / (3p + 1 - p) with groups of three on average: a half.
GROUP_PROBABILITY = 0.25
GROUP_SIZES = (2, 3, 3, 4)

# Weights are rounded by eye from street photographs: dark and neutral clothes are common, bright ones rare.
TOP_COLOURS = {
    "black": 14, "white": 13, "grey": 11, "blue": 10, "red": 11, "navy": 6, "green": 8, "pink": 6,
    "beige": 5, "brown": 4, "purple": 5, "yellow": 6, "orange": 4,
}  # fmt: skip
LOWER_COLOURS = {
    "black": 20, "blue": 17, "navy": 9, "grey": 13, "beige": 11, "brown": 8, "white": 9, "green": 7, "red": 6,
}  # fmt: skip
SHOE_COLOURS = {"black": 32, "white": 28, "grey": 9, "brown": 11, "red": 8, "blue": 7, "yellow": 3, "pink": 2}
BAG_COLOURS = {
    "black": 28, "brown": 12, "red": 12, "blue": 11, "grey": 8, "green": 8, "white": 6, "pink": 5, "yellow": 5,
    "orange": 5,
}  # fmt: skip
HAT_COLOURS = {"black": 24, "white": 18, "red": 16, "blue": 12, "grey": 8, "beige": 8, "green": 7, "yellow": 7}
BRIGHT_COLOURS = {"red": 24, "blue": 18, "black": 16, "green": 10, "yellow": 10, "purple": 8, "pink": 7, "orange": 7}
HAIR_COLOURS = {"black": 46, "brown": 27, "blond": 14, "grey": 8, "red": 5}
HAIR = {
    "man": {"short": 84, "long": 7, "bald": 9},
    "woman": {"short": 16, "long": 49, "ponytail": 35},
}
TOPS = {
    "man": {"t-shirt": 34, "shirt": 20, "jacket": 20, "coat": 9, "hoodie": 17},
    "woman": {"t-shirt": 26, "shirt": 18, "jacket": 15, "coat": 13, "hoodie": 10, "dress": 18},
}
LOWERS = {"man": {"trousers": 78, "shorts": 22}, "woman": {"trousers": 58, "shorts": 15, "skirt": 27}}
PATTERNS = {
    "t-shirt": {"plain": 52, "stripes": 18, "logo": 30},
    "shirt": {"plain": 52, "stripes": 16, "checked": 32},
    "jacket": {"plain": 100},
    "coat": {"plain": 100},
    "hoodie": {"plain": 66, "logo": 34},
    "dress": {"plain": 62, "stripes": 20, "checked": 18},
}
HATS = {"man": {NONE: 78, "cap": 15, "beanie": 7}, "woman": {NONE: 80, "cap": 6, "beanie": 7, "sun hat": 7}}
BAGS = {
    "man": {NONE: 40, "backpack": 36, "shoulder bag": 20, "handbag": 4},
    "woman": {NONE: 30, "backpack": 24, "shoulder bag": 23, "handbag": 23},
}
FACES = {NONE: 68, "glasses": 22, "mask": 10}
CARRIED = {NONE: 66, "phone": 10, "bottle": 8, "umbrella": 9, "suitcase": 7}
SHOES = {"sneakers": 78, "boots": 22}

# What differs inside a group of look-alikes: each slot is redrawn as a whole; the number is how often it is chosen.
SLOTS = {
    ("top_colour",): 5,
    ("lower_colour",): 5,
    ("shoes_colour",): 3,
    ("top", "pattern", "inner_colour"): 3,
    ("bag", "bag_colour"): 4,
    ("hat", "hat_colour"): 3,
    ("hair_colour",): 2,
    ("scarf_colour",): 1,
    ("face",): 1,
    ("carried", "carried_colour"): 2,
}
MAX_DRAWS = 200


@dataclass(frozen=True)
class Person:
    """One identity: every attribute is a word of the tables above, `none` where the person has no such thing.

    `bag_side` is the person's own side, `left` or `right`, of a shoulder bag or handbag; what is carried is on the
    other side. It is drawn, but never part of who equals whom.
    """

    gender: str
    hair: str
    hair_colour: str
    hat: str
    hat_colour: str
    top: str
    top_colour: str
    pattern: str
    inner_colour: str
    lower: str
    lower_colour: str
    shoes: str
    shoes_colour: str
    bag: str
    bag_colour: str
    face: str
    scarf_colour: str
    carried: str
    carried_colour: str
    bag_side: str

    @property
    def key(self) -> tuple[str, ...]:
        """All named attributes, in the order of `ATTRIBUTES`; two people with the same key cannot be told apart."""
        return tuple(getattr(self, name) for name in ATTRIBUTES)


ATTRIBUTES = tuple(field.name for field in fields(Person) if field.name != "bag_side")


def draw_word(rng: np.random.Generator, weights: dict) -> str:
    """A key of `weights`, drawn in proportion to its value."""
    words = list(weights)
    ends = np.cumsum(list(weights.values()))
    return words[int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))]


def draw_person(rng: np.random.Generator, gender: str | None = None) -> Person:
    """A person from the distribution of the tables above; `gender` fixes that one attribute."""
    gender = gender or draw_word(rng, {"man": 54, "woman": 46})
    hair = draw_word(rng, HAIR[gender])
    hat = draw_word(rng, HATS[gender])
    top = draw_word(rng, TOPS[gender])
    top_colour = draw_word(rng, TOP_COLOURS)
    layered = top in ("jacket", "coat")
    inner_colours = {colour: weight for colour, weight in TOP_COLOURS.items() if colour != top_colour}
    # A coat hides shorts and skirts, a dress whatever is under it.
    lower = NONE if top == "dress" else "trousers" if top == "coat" else draw_word(rng, LOWERS[gender])
    bag = draw_word(rng, BAGS[gender])
    carried = draw_word(rng, CARRIED)
    return Person(
        gender=gender,
        hair=hair,
        hair_colour=NONE if hair == "bald" else draw_word(rng, HAIR_COLOURS),
        hat=hat,
        hat_colour=NONE if hat == NONE else draw_word(rng, HAT_COLOURS),
        top=top,
        top_colour=top_colour,
        pattern=draw_word(rng, PATTERNS[top]),
        inner_colour=draw_word(rng, inner_colours) if layered and rng.random() < 0.7 else NONE,
        lower=lower,
        lower_colour=NONE if lower == NONE else draw_word(rng, LOWER_COLOURS),
        shoes=draw_word(rng, SHOES),
        shoes_colour=draw_word(rng, SHOE_COLOURS),
        bag=bag,
        bag_colour=NONE if bag == NONE else draw_word(rng, BAG_COLOURS),
        face=draw_word(rng, FACES),
        scarf_colour=draw_word(rng, BRIGHT_COLOURS) if rng.random() < 0.1 else NONE,
        carried=carried,
        carried_colour=draw_word(rng, BRIGHT_COLOURS) if carried in ("umbrella", "suitcase") else NONE,
        bag_side="left" if rng.random() < 0.5 else "right",
    )


def _fits(slot: tuple[str, ...], base: Person, other: Person) -> bool:
    """Whether `base` stays a possible person with the attributes of `slot` taken from `other`."""
    if slot == ("top", "pattern", "inner_colour"):
        covered = "dress" in (base.top, other.top) or (other.top == "coat" and base.lower != "trousers")
        return not covered and base.top_colour != other.inner_colour
    if slot == ("top_colour",):
        return base.inner_colour != other.top_colour
    if slot == ("lower_colour",):
        return NONE not in (base.lower, other.lower)
    if slot == ("hair_colour",):
        return "bald" not in (base.hair, other.hair)
    return True


def _draw_group(rng: np.random.Generator, size: int) -> list[Person]:
    """Look-alikes: the first drawn freely, the others equal to it but for up to three slots."""
    base = draw_person(rng)
    slots = [slot for slot in SLOTS if slot != ("lower_colour",) or base.lower != NONE]
    weights = np.array([SLOTS[slot] for slot in slots], dtype=np.float64)
    slots = [slots[i] for i in rng.choice(len(slots), size=3, replace=False, p=weights / weights.sum())]
    group = [base]
    for _ in range(MAX_DRAWS):
        if len(group) == size:
            break
        member = base
        for slot in slots:
            other = draw_person(rng, base.gender)
            if _fits(slot, member, other):
                member = replace(member, **{name: getattr(other, name) for name in slot})
        # Look-alikes that differ in a single slot would be told apart by luck only: most captions leave it out.
        if all(sum(_differ(slot, member, known) for slot in slots) >= 2 for known in group):
            group.append(member)
    return group


def _differ(slot: tuple[str, ...], one: Person, two: Person) -> bool:
    return any(getattr(one, name) != getattr(two, name) for name in slot)


def draw_people(seed: int, counts: dict[str, int]) -> dict[str, list[Person]]:
    """The identities of each split; no two of them, in whichever splits, share all attributes.

    Args:
        seed: of the benchmark; the same seed and counts give the same people.
        counts: number of identities of each split.
    Returns:
        A list of people for each split, look-alikes adjacent.
    """
    seen: set[tuple[str, ...]] = set()
    people: dict[str, list[Person]] = {}
    for split, count in counts.items():
        rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split)]))
        people[split] = []
        while len(people[split]) < count:
            size = int(rng.choice(GROUP_SIZES)) if rng.random() < GROUP_PROBABILITY else 1
            for person in _draw_group(rng, size) if size > 1 else [draw_person(rng)]:
                if person.key not in seen and len(people[split]) < count:
                    seen.add(person.key)
                    people[split].append(person)
    return people


def near_side(view: str) -> str | None:
    """The person's own side that faces the camera in a side view (`left` is who walks to the left of the image)."""
    return {"left": "left", "right": "right"}.get(view)


def visible_attributes(person: Person, view: str, feet_hidden: bool = False) -> set[str]:
    """Names of the attributes that an image from `view` shows well enough to be named.

    Args:
        person: whom the image shows.
        view: one of `VIEWS`; `left` and `right` say where the person is heading in the image.
        feet_hidden: whether the lower edge of the image or something in front hides the shoes.
    """
    shown = {name for name in ATTRIBUTES if getattr(person, name) != NONE} - {"pattern"}
    if person.pattern in ("stripes", "checked") or (person.pattern == "logo" and view == "front"):
        shown.add("pattern")
    if view != "front":
        shown -= {"inner_colour"}
    if view == "back":
        shown -= {"face"}
        if person.carried == "phone":
            shown -= {"carried"}
    if person.bag == "backpack" and view == "front":
        shown -= {"bag_colour"}  # the straps alone show
    side = near_side(view)
    if side:
        if person.bag in ("shoulder bag", "handbag") and person.bag_side != side:
            shown -= {"bag", "bag_colour"}
        if person.carried in ("bottle", "umbrella") and person.bag_side == side:
            shown -= {"carried", "carried_colour"}
    if (person.hair == "bald" and person.hat != NONE) or (person.hair == "short" and person.hat == "beanie"):
        shown -= {"hair", "hair_colour"}
    if feet_hidden:
        shown -= {"shoes", "shoes_colour"}
        if person.carried == "suitcase":
            shown -= {"carried", "carried_colour"}
    return shown
