"""The captions of `synthetic-pedes`: sentences that name a part of what an image shows, at times wrongly.

Every caption carries the attributes that it names, so that tests can measure how far the words alone lead.
"""

from dataclasses import dataclass, replace

import numpy as np

from .synthetic_people import (
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

WRONG_RATE = 0.05
MIN_WORDS, MAX_WORDS = 15, 40
MAX_TRIES = 20

# How often a caption names what it could name (of attributes that the image shows).
MENTION = {
    "gender": 0.93, "hair": 0.45, "hat": 0.85, "top": 0.97, "pattern": 0.75, "inner_colour": 0.6, "lower": 0.88,
    "shoes": 0.55, "bag": 0.85, "face": 0.55, "scarf_colour": 0.85, "carried": 0.75,
}  # fmt: skip
COLOUR_MENTION = 0.93
STRAPS_MENTION = 0.4
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
    "back": ("walking away", "seen from behind", "facing away from the camera", "with the back to the camera"),
    "left": ("walking to the left", "seen from the side", "walking past"),
    "right": ("walking to the right", "seen from the side", "walking by"),
}


@dataclass(frozen=True)
class Caption:
    """A sentence about one image and what it says.

    Attributes:
        text: one or two English sentences of 15 to 40 words.
        attributes: the (name, value) pairs of `Person` that the text names, in the order of `ATTRIBUTES`.
        wrong: name of the attribute whose value is not the person's, None where all are right.
    """

    text: str
    attributes: tuple[tuple[str, str], ...]
    wrong: str | None


def write_captions(
    rng: np.random.Generator, person: Person, view: str, feet_hidden: bool = False, count: int = 2
) -> list[Caption]:
    """Captions of one image: each names another subset of what the view shows, about one in twenty errs once.

    Args:
        rng: source of every choice.
        person, view, feet_hidden: as of `visible_attributes`.
        count: how many.
    """
    captions: list[Caption] = []
    for _ in range(count):
        for _ in range(MAX_TRIES):
            caption = _write_caption(rng, person, view, feet_hidden)
            if all(caption.attributes != other.attributes for other in captions):
                break
        captions.append(caption)
    return captions


def _write_caption(rng: np.random.Generator, person: Person, view: str, feet_hidden: bool) -> Caption:
    for _ in range(MAX_TRIES):
        named = _choose_named(rng, person, view, feet_hidden)
        said, wrong = person, None
        if rng.random() < WRONG_RATE:
            said, wrong = _mistake(rng, person, named)
        text, generic_shoes = _compose(rng, said, named, view)
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            break
    if generic_shoes:
        named.discard("shoes")
    attributes = tuple((name, getattr(said, name)) for name in ATTRIBUTES if name in named)
    return Caption(text, attributes, wrong)


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


def _mistake(rng: np.random.Generator, person: Person, named: set[str]) -> tuple[Person, str | None]:
    names = [name for name in MISTAKES if name in named]
    if not names:
        return person, None
    name = _pick(rng, names)
    words = {word: weight for word, weight in MISTAKES[name].items() if word != getattr(person, name)}
    return replace(person, **{name: draw_word(rng, words)}), name


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _things(rng: np.random.Generator, person: Person, named: set[str]) -> tuple[dict[str, str], bool]:
    """The noun phrase of every thing named, and whether the shoes are just called shoes."""

    def coloured(colour: str, noun: str) -> str:
        word = _pick(rng, COLOUR_WORDS[getattr(person, colour)]) + " " if colour in named else ""
        return word + noun

    things = {}
    if "hair" in named:
        colour = ""
        if "hair_colour" in named:
            colour = _pick(rng, HAIR_COLOUR_WORDS.get(person.hair_colour) or COLOUR_WORDS[person.hair_colour]) + " "
        things["hair"] = {
            "short": f"short {colour}hair",
            "long": f"long {colour}hair",
            "ponytail": _pick(rng, (f"{colour}hair in a ponytail", f"{colour}hair tied back", f"a {colour}ponytail")),
            "bald": _pick(rng, ("a bald head", "no hair", "a shaved head")),
        }[person.hair]
    if "top" in named:
        noun = _pick(rng, TOP_WORDS[person.top])
        after = ""
        if "pattern" in named:
            before, after = {
                "stripes": (("striped ", ""), ("", " with stripes"))[int(rng.integers(2))],
                "checked": ((_pick(rng, ("checked ", "plaid ", "checkered ")), ""), ("", " with a checked pattern"))[
                    int(rng.integers(2))
                ],
                "logo": ("", _pick(rng, (" with a logo", " with a print on the chest", " with a graphic on the front"))),
            }[person.pattern]
            noun = before + noun
        if "inner_colour" in named:
            inner = _with_article(_pick(rng, COLOUR_WORDS[person.inner_colour]))
            after += _pick(rng, (f" over {inner} shirt", f" with {inner} shirt underneath", f" and {inner} top under it"))
        things["top"] = _with_article(coloured("top_colour", noun)) + after
    if "lower" in named:
        words = LOWER_WORDS[person.lower]
        if person.lower == "trousers" and person.lower_colour in ("blue", "navy", "black", "grey"):
            words = (*words, "jeans", "jeans")
        lower = coloured("lower_colour", _pick(rng, words))
        if person.lower == "skirt":
            lower = _with_article(lower)
        elif rng.random() < 0.2:
            lower = f"a pair of {lower}"
        things["lower"] = lower
    generic_shoes = False
    if "shoes" in named:
        generic_shoes = person.shoes == "sneakers" and rng.random() < 0.5
        things["shoes"] = coloured("shoes_colour", "shoes" if generic_shoes else _pick(rng, SHOE_WORDS[person.shoes]))
    if "hat" in named:
        things["hat"] = _with_article(coloured("hat_colour", _pick(rng, HAT_WORDS[person.hat])))
    if "scarf_colour" in named:
        scarf = _with_article(coloured("scarf_colour", "scarf"))
        things["scarf"] = scarf + _pick(rng, ("", " around the neck"))
    if "face" in named:
        things["face"] = _pick(rng, FACE_WORDS[person.face])
    if "bag" in named:
        things["bag"] = _with_article(coloured("bag_colour", _pick(rng, BAG_WORDS[person.bag])))
    if "carried" in named:
        things["carried"] = _with_article(coloured("carried_colour", _pick(rng, CARRIED_WORDS[person.carried])))
    return things, generic_shoes


def _compose(rng: np.random.Generator, person: Person, named: set[str], view: str) -> tuple[str, bool]:
    things, generic_shoes = _things(rng, person, named)
    gender = person.gender if "gender" in named else NONE
    subject = _pick(rng, SUBJECTS[gender])
    pronoun = {"man": "he", "woman": "she", NONE: "the person"}[gender]
    hair = things.pop("hair", None)
    held = [things.pop(name) for name in ("bag", "carried") if name in things]
    worn = list(things.values())
    if worn and rng.random() < 0.25:
        worn = [worn[i] for i in rng.permutation(len(worn))]
    motion = _pick(rng, MOTIONS[view]) if rng.random() < 0.35 else ""
    wears = _pick(rng, ("wears", "is wearing", "is dressed in", "has on"))
    carries = _pick(rng, ("carries", "is carrying", "has", "is holding" if "carried" in named else "carries"))
    a_subject = _pick(rng, (_with_article(subject), f"the {subject}", f"this {subject}"))
    with_hair = f" with {hair}" if hair else ""
    walking = f" {motion}" if motion else ""
    pattern = int(rng.integers(6)) if worn else 0

    if pattern == 0 or not worn:  # one subject, then what it wears, then what it carries
        first = f"{a_subject}{with_hair}{walking} {wears} {_join(worn)}" if worn else f"{a_subject}{with_hair}{walking}"
        second = f"{pronoun} {carries} {_join(held)}" if held else ""
    elif pattern == 1:  # participle first
        where = motion or _pick(rng, ("on the street", "walking along", "out on a walk"))
        first = f"{_pick(rng, ('wearing', 'dressed in'))} {_join(worn)}, {a_subject} is {where}".replace("is with", "stands with")
        rest = ([f"has {hair}"] if hair else []) + ([f"{carries} {_join(held)}"] if held else [])
        second = f"{pronoun} {_join(rest)}" if rest else ""
    elif pattern == 2:  # a noun phrase only
        extras = f", {_pick(rng, ('carrying', 'with'))} {_join(held)}" if held else ""
        first = f"{a_subject}{with_hair} in {_join(worn)}{walking}{extras}"
        second = ""
    elif pattern == 3:  # clothes in two sentences
        half = max(1, len(worn) - int(rng.integers(3)))
        first = f"{a_subject}{walking} {wears} {_join(worn[:half])}"
        rest = ([f"has {hair}"] if hair else []) + ([f"{carries} {_join(held)}"] if held else [])
        if worn[half:]:
            rest.insert(0, f"{_pick(rng, ('also wears', 'has on', 'wears'))} {_join(worn[half:])}")
        second = f"{pronoun} {_join(rest)}" if rest else ""
    elif pattern == 4 and held:  # what is carried comes first
        first = f"{a_subject}{with_hair} {carries} {_join(held)}"
        second = f"{pronoun} {wears} {_join(worn)}" + (f" and is {motion}" if motion and "with" not in motion else "")
    else:  # hair last
        first = f"{a_subject}{walking} {wears} {_join(worn)}" + (f" and {carries} {_join(held)}" if held else "")
        second = f"{pronoun} has {hair}" if hair else ""
    sentences = [sentence[0].upper() + sentence[1:] + "." for sentence in (first, second) if sentence]
    return " ".join(sentences), generic_shoes
