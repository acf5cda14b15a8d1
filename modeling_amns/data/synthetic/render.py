"""Renders the images of `synthetic-pedes`: background, figure, what stands in front, camera. No words."""

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from .camera import CAMERAS, HEIGHT, Shot, draw_background, draw_occluder, photograph
from .figure import Body, Figure
from .pen import MIDDLE, Pen
from .people import Person

# Drawn larger, then reduced: smooth edges without blurring what an image can show.
SUPERSAMPLING = 2
FOLD_ROWS, FOLD_COLUMNS = 14, 8


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
    size, unit = (width * SUPERSAMPLING, height * SUPERSAMPLING), height * SUPERSAMPLING / HEIGHT
    scenery, folds, foreground, sensor = (
        np.random.default_rng(np.random.SeedSequence([*shot.noise_seed, part])) for part in range(1, 5)
    )
    camera = CAMERAS[shot.camera]
    image = draw_background(size, unit, camera, scenery)
    middle = (size[0] / 2 + shot.dx * unit, (MIDDLE + shot.dy) * unit)
    pen = Pen(size, unit * shot.scale, middle, body.height, -1 if shot.view == "left" else 1)
    Figure(pen, person, body, shot).draw()
    _drop_shadow(image, pen)
    layer = _shade(pen.layer, folds)
    image.paste(layer, mask=layer.getchannel("A"))
    draw_occluder(image, unit, shot, foreground)
    return photograph(image.reduce(SUPERSAMPLING), camera, sensor)


def _drop_shadow(image: Image.Image, pen: Pen) -> None:
    ((x, y),) = pen.place([(0, 119)])
    wide, high = round(30 * pen.unit), round(5 * pen.unit)
    shadow = Image.new("L", (wide, high), 0)
    ImageDraw.Draw(shadow).ellipse((0, 0, wide - 1, high - 1), 90)
    image.paste((20, 20, 24), (round(x) - wide // 2, round(y) - high // 2), shadow)


def _shade(layer: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light from one side, and soft folds: every colour times 0.7 to 1."""
    across = np.linspace(-1, 1, FOLD_COLUMNS) * rng.choice((-1, 1)) * rng.uniform(0.1, 0.3)
    folds = np.clip(0.89 + across + rng.uniform(-0.09, 0.09, (FOLD_ROWS, FOLD_COLUMNS)), 0.7, 1.0)
    shade = Image.fromarray(np.rint(folds * 255).astype(np.uint8)).resize(layer.size, Image.Resampling.BICUBIC)
    opaque = Image.new("L", layer.size, 255)
    return ImageChops.multiply(layer, Image.merge("RGBA", (shade, shade, shade, opaque)))
