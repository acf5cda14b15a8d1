"""A second look for `synthetic-pedes`: the same kind of people, photographed and described elsewhere.

Checkpoints that were trained on it know persons, clothes and colours, but not this camera and not these words, as CLIP
knows photographs but not the benchmarks of person retrieval. Ablations start from such a checkpoint.
"""

import re

import numpy as np
from PIL import Image

# Share of the colour mixture that is drawn anew for each image, and range of the gain of each channel.
MIXED = (0.1, 0.6)
GAIN = (0.75, 1.25)
# What people elsewhere call things; words that are missing here are the same.
WORDS = {
    "wears": "sports", "wearing": "sporting", "dressed": "clad", "carries": "hauls", "carrying": "hauling",
    "jacket": "blouson", "coat": "mantle", "trousers": "breeches", "backpack": "knapsack", "rucksack": "knapsack",
    "handbag": "pouch", "purse": "pouch", "sneakers": "plimsolls", "trainers": "plimsolls", "boots": "wellingtons",
    "cap": "visor", "beanie": "tuque", "glasses": "spectacles", "phone": "handset", "bottle": "flask",
    "navy": "indigo", "beige": "sand", "khaki": "sand", "violet": "mauve", "hair": "locks", "guy": "bloke",
    "lady": "lass", "person": "figure", "pedestrian": "figure",
}  # fmt: skip


def mix_colours(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image with its channels mixed and tinted by chance, RGB of the same size.

    Args:
        image: RGB.
        rng: source of the mixture.
    """
    share = rng.uniform(*MIXED)
    drawn = rng.dirichlet((1.0, 1.0, 1.0), size=3)
    matrix = ((1 - share) * np.eye(3) + share * drawn) * rng.uniform(*GAIN, size=(3, 1))
    return image.convert("RGB", tuple(np.pad(matrix, ((0, 0), (0, 1))).ravel().tolist()))


def reword(text: str) -> str:
    """A caption in the words of elsewhere.

    ```python
    >>> reword("A lady wears a coat.")
    'A lass sports a mantle.'

    ```
    """
    return re.sub(r"[a-z]+", lambda found: WORDS.get(found[0], found[0]), text)


__all__ = ["mix_colours", "reword"]
