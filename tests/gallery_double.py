"""A model for galleries that needs no torch: programs that tests start are there sooner."""

import numpy as np
from PIL import Image


class Counting:
    """An encoder that counts what it embeds, with vectors that follow from the mean colour."""

    name, max_tokens, dimension = "counting", 77, 3

    def __init__(self, weights="w"):
        self.identity = {"weights": weights, "preprocessing": {"height": 1}, "dimension": 3}
        self.embedded = []

    def embed_texts(self, texts):
        return np.eye(3, dtype=np.float32)[[("red", "green", "blue").index(text) for text in texts]]

    def embed_images(self, images):
        vectors, faults = [], {}
        for number, image in enumerate(images):
            try:
                picture = image if isinstance(image, Image.Image) else Image.open(image)
                colour = np.asarray(picture.convert("RGB"), np.float32).mean((0, 1)) + 1
            except OSError as error:
                faults[number] = str(error)
                continue
            self.embedded.append(str(image))
            vectors.append(colour / np.linalg.norm(colour))
        return np.array(vectors, np.float32).reshape(-1, 3), faults

    def token_count(self, text):
        return min(77, len(text.split()))
