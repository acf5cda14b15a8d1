"""The captions of `synthetic-pedes`: sentences that name a part of what an image shows, at times wrongly.

Every caption carries the attributes that it names, so that tests can measure how far the words alone lead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .people import (
    ATTRIBUTES,
    BAG_COLOURS,
    BRIGHT_COLOURS,
    CARRIED,
    HAIR_COLOURS,
    HAT_COLOURS,
    LOWER_COLOURS,
    NONE,
    SHOE_COLOURS,
    TOP_COLOURS,
    Person,
    draw_word,
    visible_attributes,
)

WRONG_RATE = 0.04
MIN_WORDS, MAX_WORDS = 16, 40
MAX_TRIES = 20

# How often a caption names what it could name (of attributes that the image shows).
MENTION = {
    "gender": 0.93, "hair": 0.5, "hat": 0.8, "top": 0.98, "pattern": 0.7, "inner_colour": 0.55, "lower": 0.95,
    "shoes": 0.6, "bag": 0.88, "face": 0.5, "scarf_colour": 0.8, "carried": 0.7,
}  # fmt: skip
COLOUR_MENTION = 0.96
STRAPS_MENTION = 0.4
# Things in the order in which people describe them.
WORN = ("top", "lower", "shoes", "hat", "scarf_colour", "face")
HELD = ("bag", "carried")
JEANS_COLOURS = ("blue", "navy", "black", "grey")
COLOUR_OF = {
    "hair": "hair_colour", "hat": "hat_colour", "top": "top_colour", "lower": "lower_colour", "shoes": "shoes_colour",
    "bag": "bag_colour", "carried": "carried_colour",
}  # fmt: skip

# What a hurried annotator mistakes an attribute for.
MISTAKES = {
    "gender": {"man": 1, "woman": 1},
    "hair_colour": HAIR_COLOURS,
    "hat_colour": HAT_COLOURS,
    "top_colour": TOP_COLOURS,
    "inner_colour": TOP_COLOURS,
    "lower_colour": LOWER_COLOURS,
    "shoes_colour": SHOE_COLOURS,
    "bag": {"backpack": 1, "shoulder bag": 1, "handbag": 1},
    "bag_colour": BAG_COLOURS,
    "scarf_colour": BRIGHT_COLOURS,
    "carried": {word: weight for word, weight in CARRIED.items() if word != NONE},
    "carried_colour": BRIGHT_COLOURS,
}

# Every word list repeats what people write most often.
COLOUR_WORDS = {
    "black": ("black",),
    "white": ("white",),
    "grey": ("grey", "gray", "gray"),
    "red": ("red", "red", "bright red"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "bright yellow"),
    "green": ("green",),
    "blue": ("blue", "blue", "bright blue"),
    "navy": ("navy", "dark blue", "navy blue"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "light pink"),
    "brown": ("brown", "brown", "dark brown"),
    "beige": ("beige", "tan", "khaki", "cream colored"),
    "blond": ("blond", "blonde", "light"),
}
HAIR_COLOUR_WORDS = {"black": ("black", "dark"), "red": ("red", "reddish"), "grey": ("grey", "gray")}
SUBJECTS = {
    "man": ("man", "man", "man", "guy", "male", "gentleman", "young man"),
    "woman": ("woman", "woman", "woman", "lady", "female", "girl", "young woman"),
    NONE: ("person", "person", "pedestrian"),
}
TOP_WORDS = {
    "t-shirt": ("t-shirt", "t-shirt", "tee shirt", "short sleeved shirt", "short sleeve top"),
    "shirt": ("long sleeved shirt", "long sleeve shirt", "shirt with long sleeves", "long sleeved top"),
    "jacket": ("jacket", "jacket", "zip-up jacket"),
    "coat": ("coat", "long coat", "overcoat", "knee-length coat"),
    "hoodie": ("hoodie", "hooded sweatshirt", "hooded sweater", "sweatshirt with a hood"),
    "dress": ("dress", "dress", "knee-length dress", "one-piece dress"),
}
LOWER_WORDS = {
    "trousers": ("trousers", "pants", "pants", "long pants", "slacks"),
    "shorts": ("shorts", "shorts", "short pants", "knee-length shorts"),
    "skirt": ("skirt", "skirt", "knee-length skirt"),
}
SHOE_WORDS = {"sneakers": ("sneakers", "sneakers", "trainers", "tennis shoes"), "boots": ("boots", "ankle boots")}
HAT_WORDS = {
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit hat", "woolly hat"),
    "sun hat": ("sun hat", "wide-brimmed hat", "hat with a wide brim"),
}
BAG_WORDS = {
    "backpack": ("backpack", "backpack", "rucksack", "back pack"),
    "shoulder bag": ("shoulder bag", "shoulder bag", "messenger bag", "cross-body bag"),
    "handbag": ("handbag", "handbag", "purse", "hand bag"),
}
CARRIED_WORDS = {
    "phone": ("phone", "cell phone", "mobile phone"),
    "bottle": ("bottle", "water bottle", "bottle of water"),
    "umbrella": ("umbrella", "folded umbrella", "closed umbrella"),
    "suitcase": ("suitcase", "rolling suitcase", "trolley case"),
}
FACE_WORDS = {"glasses": ("glasses", "eyeglasses", "a pair of glasses"), "mask": ("a face mask", "a mask")}
MOTIONS = {
    "front": ("walking towards the camera", "facing the camera", "walking forward", "looking ahead"),
    "back": ("walking away", "seen from behind", "facing away from the camera", "turned away from the camera"),
    "left": ("walking to the left", "seen from the side", "walking past"),
    "right": ("walking to the right", "seen from the side", "walking by"),
}
# What people add when there is little to say.
FILLERS = (
    "The face cannot be made out very well.",
    "Nothing else stands out in this picture.",
    "It looks like an ordinary walk through town.",
)


@dataclass(frozen=True)
class Caption:
    """A sentence about one image and what it says.

    Attributes:
        text: one or two English sentences of 15 to 40 words.
        attributes: the (name, value) pairs of `Person` that the text names, in the order of `ATTRIBUTES`.
        wrong: names of those whose value is not the person's, in the same order; empty where all are right.
    """

    text: str
    attributes: tuple[tuple[str, str], ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class _Draft:
    """A caption and all that it was worded from: the same words for the same, others where an attribute is replaced.

    Attributes:
        caption: itself.
        said: whom it describes: the person, but for what is mistaken.
        named: attributes to word, of shoes that are just called so as well.
        state: of the generator before the first word.
    """

    caption: Caption
    said: Person
    named: frozenset[str]
    state: Mapping[str, Any]


def write_captions(
    rng: np.random.Generator,
    person: Person,
    view: str,
    feet_hidden: bool = False,
    count: int = 2,
    errors: Mapping[int, np.random.Generator] | None = None,
    wrong_attributes: int = 2,
) -> list[Caption]:
    """Captions of one image: each names another subset of what the view shows, about one in twenty errs once.

    Args:
        rng: source of every choice but the errors that are asked for; what it draws does not depend on them.
        person, view, feet_hidden: as of `visible_attributes`.
        count: how many.
        errors: captions to make partly wrong, by their place, and what their errors are drawn from.
        wrong_attributes: how many named attributes of such a caption are not the person's: all that can be mistaken
            where it names fewer, so none where it names none.
    """
    drafts: list[_Draft] = []
    for _ in range(count):
        for _ in range(MAX_TRIES):
            draft = _write_caption(rng, person, view, feet_hidden)
            if all(draft.caption.attributes != other.caption.attributes for other in drafts):
                break
        drafts.append(draft)
    captions = [draft.caption for draft in drafts]
    for place, chance in (errors or {}).items():
        captions[place] = _mislead(chance, person, drafts[place], view, wrong_attributes)
    return captions


def _write_caption(rng: np.random.Generator, person: Person, view: str, feet_hidden: bool) -> _Draft:
    for _ in range(MAX_TRIES):
        named = _choose_named(rng, person, view, feet_hidden)
        said = person
        if rng.random() < WRONG_RATE and (names := [name for name in MISTAKES if name in named]):
            said = _mistake(rng, said, person, _pick(rng, names))
        state = rng.bit_generator.state
        text, generic_shoes = _compose(rng, said, named, view)
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            break
    return _Draft(_finish(rng, text, person, said, named, generic_shoes), said, frozenset(named), state)


def _finish(
    rng: np.random.Generator, text: str, person: Person, said: Person, named: set[str], generic_shoes: bool
) -> Caption:
    while len(text.split()) < MIN_WORDS:
        text += " " + _pick(rng, FILLERS)
    names = [name for name in ATTRIBUTES if name in named and not (generic_shoes and name == "shoes")]
    wrong = tuple(name for name in names if getattr(said, name) != getattr(person, name))
    return Caption(text, tuple((name, getattr(said, name)) for name in names), wrong)


def _mislead(rng: np.random.Generator, person: Person, draft: _Draft, view: str, count: int) -> Caption:
    """The caption of a draft in its own words, but with `count` wrong attributes, one that it errs in included."""
    wrong, named = draft.caption.wrong, set(draft.named)
    names = [name for name in MISTAKES if name in named and name not in wrong]
    more = min(count - len(wrong), len(names))
    for _ in range(MAX_TRIES):
        said = draft.said
        for place in rng.choice(len(names), size=more, replace=False):
            said = _mistake(rng, said, person, names[place])
        words = np.random.default_rng()
        words.bit_generator.state = draft.state
        text, generic_shoes = _compose(words, said, named, view)
        if len(text.split()) <= MAX_WORDS:
            break
    return _finish(words, text, person, said, named, generic_shoes)


def _choose_named(rng: np.random.Generator, person: Person, view: str, feet_hidden: bool) -> set[str]:
    shown = visible_attributes(person, view, feet_hidden)
    named = set()
    for name, probability in MENTION.items():
        if name == "bag" and person.bag == "backpack" and view == "front":
            probability = STRAPS_MENTION
        if name in shown and rng.random() < probability:
            named.add(name)
            colour = COLOUR_OF.get(name)
            if colour in shown and rng.random() < COLOUR_MENTION:
                named.add(colour)
    if "top" not in named:
        named -= {"pattern", "inner_colour"}
    return named


def _mistake(rng: np.random.Generator, said: Person, person: Person, name: str) -> Person:
    """`said` with a value of this attribute that is not the person's."""
    words = {word: weight for word, weight in MISTAKES[name].items() if word != getattr(person, name)}
    return replace(said, **{name: draw_word(rng, words)})


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


class _Phrases:
    """The noun phrases of one caption: each method words one thing, with its colour where that is named."""

    def __init__(self, rng: np.random.Generator, person: Person, named: set[str]):
        self.rng, self.person, self.named = rng, person, named
        # Half of all sneakers are just called shoes, which says nothing of the kind.
        self.generic_shoes = "shoes" in named and person.shoes == "sneakers" and rng.random() < 0.5

    def pick(self, options: Sequence[str]) -> str:
        return _pick(self.rng, options)

    def coloured(self, colour: str, noun: str) -> str:
        return f"{self.pick(COLOUR_WORDS[getattr(self.person, colour)])} {noun}" if colour in self.named else noun

    def hair(self) -> str:
        style, colour = self.person.hair, self.person.hair_colour
        word = ""
        if "hair_colour" in self.named:
            word = self.pick(HAIR_COLOUR_WORDS.get(colour) or COLOUR_WORDS[colour]) + " "
        if style == "bald":
            return self.pick(("a bald head", "no hair", "a shaved head"))
        if style == "ponytail":
            return self.pick((f"{word}hair in a ponytail", f"{word}hair tied back", f"a {word}ponytail"))
        return f"{style} {word}hair"

    def top(self) -> str:
        before, after = self.pattern() if "pattern" in self.named else ("", "")
        top = _with_article(self.coloured("top_colour", before + self.pick(TOP_WORDS[self.person.top]))) + after
        if "inner_colour" in self.named:
            inner = _with_article(self.coloured("inner_colour", "shirt"))
            top += self.pick((f" over {inner}", f" with {inner} underneath", f" and {inner} under it"))
        return top

    def pattern(self) -> tuple[str, str]:
        """What stands before and after the name of the garment."""
        pattern, adjective = self.person.pattern, self.rng.random() < 0.6
        if pattern == "stripes":
            return ("striped ", "") if adjective else ("", " with stripes")
        if pattern == "checked":
            return (
                (self.pick(("checked ", "plaid ", "checkered ")), "") if adjective else ("", " with a checked pattern")
            )
        return "", self.pick((" with a logo", " with a print on the chest", " with a graphic on the front"))

    def lower(self) -> str:
        words = LOWER_WORDS[self.person.lower]
        if self.person.lower == "trousers" and self.person.lower_colour in JEANS_COLOURS:
            words = (*words, "jeans", "jeans")
        lower = self.coloured("lower_colour", self.pick(words))
        if self.person.lower == "skirt":
            return _with_article(lower)
        return f"a pair of {lower}" if self.rng.random() < 0.2 else lower

    def shoes(self) -> str:
        return self.coloured(
            "shoes_colour", "shoes" if self.generic_shoes else self.pick(SHOE_WORDS[self.person.shoes])
        )

    def hat(self) -> str:
        return _with_article(self.coloured("hat_colour", self.pick(HAT_WORDS[self.person.hat])))

    def scarf_colour(self) -> str:
        return _with_article(self.coloured("scarf_colour", self.pick(("scarf", "scarf around the neck"))))

    def face(self) -> str:
        return self.pick(FACE_WORDS[self.person.face])

    def bag(self) -> str:
        return _with_article(self.coloured("bag_colour", self.pick(BAG_WORDS[self.person.bag])))

    def carried(self) -> str:
        return _with_article(self.coloured("carried_colour", self.pick(CARRIED_WORDS[self.person.carried])))


def _compose(rng: np.random.Generator, person: Person, named: set[str], view: str) -> tuple[str, bool]:
    """The text, and whether the shoes in it are just called shoes."""
    phrases = _Phrases(rng, person, named)
    gender = person.gender if "gender" in named else NONE
    noun = _pick(rng, SUBJECTS[gender])
    subject = _pick(rng, (_with_article(noun), f"the {noun}", f"this {noun}"))
    pronoun = {"man": "he", "woman": "she", NONE: "the person"}[gender]
    worn = [getattr(phrases, thing)() for thing in WORN if thing in named]
    if rng.random() < 0.25:
        worn = [worn[i] for i in rng.permutation(len(worn))]
    held = [getattr(phrases, thing)() for thing in HELD if thing in named]
    hair = phrases.hair() if "hair" in named else ""
    motion = _pick(rng, MOTIONS[view]) if rng.random() < 0.35 else ""

    wears = _pick(rng, ("wears", "is wearing", "is dressed in", "has on"))
    carries = _pick(rng, ("carries", "is carrying", "has", "is holding" if "carried" in named else "carries"))
    carries_held = [f"{carries} {_join(held)}"] if held else []
    has_hair = [f"has {hair}"] if hair else []
    with_hair = f" with {hair}" if hair else ""
    moving = f" {motion}" if motion else ""
    form = int(rng.integers(6))

    if not worn:
        first, second = f"{subject}{with_hair} is {motion or 'in the picture'}", carries_held
    elif form == 0:  # one sentence for the clothes, one for what is carried
        first, second = f"{subject}{with_hair}{moving} {wears} {_join(worn)}", carries_held
    elif form == 1:  # participle first
        where = motion or _pick(rng, ("on the street", "walking along", "out on a walk"))
        first = f"{_pick(rng, ('wearing', 'dressed in'))} {_join(worn)}, {subject} is {where}"
        second = has_hair + carries_held
    elif form == 2:  # a noun phrase only
        extras = f", {_pick(rng, ('carrying', 'with'))} {_join(held)}" if held else ""
        first, second = f"{subject}{with_hair} in {_join(worn)}{moving}{extras}", []
    elif form == 3:  # clothes in two sentences
        half = max(1, len(worn) - int(rng.integers(3)))
        also = [f"{_pick(rng, ('also wears', 'has on', 'wears'))} {_join(worn[half:])}"] if worn[half:] else []
        first, second = f"{subject}{moving} {wears} {_join(worn[:half])}", also + has_hair + carries_held
    elif form == 4 and held:  # what is carried comes first
        first = f"{subject}{with_hair} {carries_held[0]}"
        second = [f"{wears} {_join(worn)}"] + ([f"is {motion}"] if motion else [])
    else:  # hair last
        first, second = _join([f"{subject}{moving} {wears} {_join(worn)}", *carries_held]), has_hair
    sentences = [first, f"{pronoun} {_join(second)}"] if second else [first]
    return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences), phrases.generic_shoes
