"""Cameras of `synthetic-pedes`: when a person is seen from where, in front of what, behind what, in which light.

Lengths are in units of 1/128 of the image height, x from the middle of the image, y from its top.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .people import VIEWS

HEIGHT = 128.0
VIEW_SHARES = (0.40, 0.28, 0.16, 0.16)


@dataclass(frozen=True)
class Camera:
    """One camera style; every image jitters around it.

    Attributes:
        gain: factors of red, green and blue: the colour cast.
        gamma: exponent on values in 0 to 1; above 1 is darker.
        contrast, saturation: factors around mid grey and around each pixel's grey.
        lift: added to all values, in 0 to 255: haze.
        noise: standard deviation, in 0 to 255.
        sharpness: share of the image height that the sensor resolves; below 1 the image is reduced and enlarged.
        blur: Gaussian radius in units.
        scale, offset: mean size of the person and largest shift in units: how tight and how well centred crops are.
        occlusion: probability of something in front of the person.
        scene: which background.
    """

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    lift: float = 0.0
    noise: float = 4.0
    sharpness: float = 1.0
    blur: float = 0.3
    scale: float = 1.0
    offset: float = 1.5
    occlusion: float = 0.15
    scene: str = "street"


CAMERAS = (
    Camera(noise=3.0, scene="street", occlusion=0.1),
    Camera(gain=(1.08, 1.0, 0.88), gamma=1.06, contrast=0.92, noise=5.0, blur=0.5, scene="hall"),
    Camera(gain=(0.92, 0.98, 1.1), sharpness=0.6, noise=4.0, scale=0.93, offset=2.5, scene="campus", occlusion=0.1),
    Camera(contrast=1.18, saturation=1.15, gamma=0.92, scale=1.07, offset=3.0, scene="grass", occlusion=0.2),
    Camera(gamma=1.28, contrast=0.95, noise=7.0, gain=(1.0, 0.97, 1.03), scale=0.97, scene="night"),
    Camera(
        gain=(0.96, 1.05, 0.97), contrast=0.84, lift=16.0, saturation=0.92, blur=0.7, scale=0.9, offset=3.0,
        scene="shop", occlusion=0.2,
    ),
)  # fmt: skip
OCCLUDERS = ("pole", "passer-by", "bush", "rail", "bag")


@dataclass(frozen=True)
class Shot:
    """What is decided about one image before anything is drawn.

    Attributes:
        camera: index into `CAMERAS`.
        view: one of `VIEWS`.
        stride: phase of the step, -1 to 1.
        scale, dx, dy: size and shift of the person, shifts in units.
        low_crop: whether the lower edge cuts off the feet.
        occluder: one of `OCCLUDERS` or None.
        noise_seed: seed of everything that has no meaning: clutter, folds, noise.
    """

    camera: int
    view: str
    stride: float
    scale: float
    dx: float
    dy: float
    low_crop: bool
    occluder: str | None
    noise_seed: tuple[int, ...]

    @property
    def feet_hidden(self) -> bool:
        """Whether the shoes cannot be seen."""
        return self.low_crop or self.occluder == "bush"


def draw_shot(seed: int, identity: int, index: int) -> Shot:
    """The shot of image `index` of person `identity`; successive images of a person come from different cameras."""
    order = np.random.default_rng(np.random.SeedSequence([seed, 11, identity])).permutation(len(CAMERAS))
    noise_seed = (seed, 12, identity, index)
    rng = np.random.default_rng(np.random.SeedSequence([*noise_seed, 0]))
    number = int(order[index % len(order)])
    camera = CAMERAS[number]
    low_crop = bool(rng.random() < 0.08)
    return Shot(
        camera=number,
        view=VIEWS[int(np.searchsorted(np.cumsum(VIEW_SHARES), rng.random(), side="right").clip(0, 3))],
        stride=float(rng.uniform(-1, 1)),
        scale=float(camera.scale * rng.uniform(0.95, 1.05) * (1.14 if low_crop else 1.0)),
        dx=float(rng.uniform(-1, 1) * camera.offset),
        dy=float(rng.uniform(-1, 1) * camera.offset + (13 if low_crop else 0)),
        low_crop=low_crop,
        occluder=OCCLUDERS[int(rng.integers(len(OCCLUDERS)))] if rng.random() < camera.occlusion else None,
        noise_seed=noise_seed,
    )


def _vary(rng: np.random.Generator, colour: tuple[int, int, int], amount: float = 14) -> tuple[int, int, int]:
    shift, *tints = rng.uniform(-amount, amount, 4).tolist()
    red, green, blue = (min(255, max(0, int(value + shift + tint / 3))) for value, tint in zip(colour, tints))
    return red, green, blue


_GREYS = ((150, 148, 142), (120, 122, 126), (178, 174, 166), (98, 98, 100), (196, 194, 190))
# wall, ground and the colours of the things that stand about
_SCENES = {
    "street": ((168, 166, 160), (128, 126, 124), ((92, 100, 112), (150, 70, 58), (70, 84, 74), (200, 198, 190))),
    "hall": ((205, 198, 182), (164, 150, 128), ((122, 92, 64), (226, 220, 206), (96, 110, 124), (176, 168, 150))),
    "campus": ((150, 160, 168), (150, 148, 142), ((86, 118, 76), (60, 84, 58), (176, 120, 96), (206, 210, 212))),
    "grass": ((136, 158, 124), (116, 140, 84), ((70, 102, 60), (96, 128, 74), (150, 134, 100), (196, 206, 214))),
    "night": ((104, 102, 110), (84, 84, 92), ((196, 178, 120), (60, 62, 74), (130, 60, 60), (70, 90, 120))),
    "shop": ((188, 192, 190), (168, 170, 168), ((206, 90, 80), (228, 212, 120), (100, 140, 190), (240, 240, 238))),
}


def draw_background(size: tuple[int, int], unit: float, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """Wall, ground, things and blurred strangers, RGB of `size` (width, height) pixels; `unit` is pixels per unit."""
    width, height = size[0] / unit, size[1] / unit
    wall, ground, things = _SCENES[camera.scene]
    # Out-of-focus background needs no resolution: drawn at one pixel per unit and enlarged.
    image = Image.new("RGB", (round(width), round(height)), _vary(rng, wall, 26))
    pen = ImageDraw.Draw(image)
    horizon = rng.uniform(0.45, 0.78) * height
    for _ in range(int(rng.integers(3, 7))):
        x, w = rng.uniform(-8, width), rng.uniform(5, 26)
        top, bottom = rng.uniform(-10, horizon * 0.7), horizon + rng.uniform(-16, 8)
        colour = _vary(rng, things[int(rng.integers(len(things)))], 24)
        kind = rng.random()
        if kind < 0.45:
            pen.rectangle((x, top, x + w, max(bottom, top + 4)), colour)
        elif kind < 0.7:
            for y in np.arange(top, bottom, rng.uniform(6, 11)):
                pen.rectangle((x, y, x + w, y + 4), colour)
        else:
            pen.ellipse((x - 3, top + 10, x + w + 3, max(bottom, top + 14)), colour)
    pen.polygon(
        [(0, horizon), (width, horizon + rng.uniform(-8, 8)), (width, height), (0, height)], _vary(rng, ground, 22)
    )
    for _ in range(int(rng.integers(1, 4))):
        y = rng.uniform(horizon, height)
        pen.line((0, y, width, y + rng.uniform(-12, 12)), _vary(rng, ground, 34), width=int(rng.integers(1, 4)))
    if rng.random() < 0.35:
        _draw_stranger(pen, rng, rng.choice((-1, 1)) * rng.uniform(13, 23) + width / 2, horizon + rng.uniform(4, 22))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.6)))
    return image.resize(size, Image.Resampling.BILINEAR)


def _draw_stranger(pen: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, feet: float) -> None:
    size = rng.uniform(0.42, 0.7)
    top, legs = (tuple(int(value) for value in rng.integers(30, 215, 3)) for _ in range(2))
    y = feet - 112 * size
    pen.rectangle((x - 5 * size, y + 56 * size, x + 5 * size, feet), legs)
    pen.rounded_rectangle((x - 11 * size, y + 20 * size, x + 11 * size, y + 60 * size), 5 * size, top)
    pen.ellipse((x - 6 * size, y, x + 6 * size, y + 19 * size), (150, 112, 90))


def draw_occluder(image: Image.Image, unit: float, shot: Shot, rng: np.random.Generator) -> None:
    """Draws what stands in front of the person, if anything, into `image`."""
    if shot.occluder is None:
        return
    pen = ImageDraw.Draw(image)
    middle, bottom, side = image.width / 2, image.height, int(rng.choice((-1, 1)))
    colour = _vary(rng, _GREYS[int(rng.integers(len(_GREYS)))], 20)
    darker = tuple(int(value * 0.75) for value in colour)
    if shot.occluder == "pole":
        x, w = middle + side * rng.uniform(8, 17) * unit, rng.uniform(2, 3.4) * unit
        pen.rectangle((x - w, 0, x + w, bottom), colour)
        pen.rectangle((x + w * 0.3, 0, x + w, bottom), darker)
    elif shot.occluder == "passer-by":
        x, y = middle + side * rng.uniform(23, 27) * unit, rng.uniform(22, 44) * unit
        coat = tuple(int(value) for value in rng.integers(30, 200, 3))
        pen.rounded_rectangle((x - 13 * unit, y, x + 13 * unit, bottom + 20), 6 * unit, coat)
        pen.ellipse((x - 7 * unit, y - 17 * unit, x + 7 * unit, y + 2 * unit), (66, 48, 40))
    elif shot.occluder == "bush":
        for _ in range(26):
            x, y, r = rng.uniform(0, image.width), bottom - rng.uniform(-2, 13) * unit, rng.uniform(3, 6) * unit
            pen.ellipse((x - r, y - r, x + r, y + r), _vary(rng, (62, 92, 52), 22))
    elif shot.occluder == "rail":
        for y in (rng.uniform(76, 84), rng.uniform(92, 100)):
            pen.rectangle((0, y * unit, image.width, (y + 2.6) * unit), colour)
            pen.rectangle((0, (y + 1.6) * unit, image.width, (y + 2.6) * unit), darker)
    else:
        x, y = middle + side * rng.uniform(12, 20) * unit, rng.uniform(92, 106) * unit
        pen.rounded_rectangle((x - 8 * unit, y, x + 8 * unit, bottom + 9), 2 * unit, colour, darker, int(unit))


def photograph(image: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """The drawn scene as the camera records it: optics, then light and colour, then noise.

    Args:
        image: the scene, RGB, in the size of the result.
        camera: style, jittered here.
        rng: source of the jitter and the noise.
    """
    size = image.size
    sharpness = min(1.0, camera.sharpness * rng.uniform(0.85, 1.15))
    if sharpness < 0.95:
        small = image.resize([max(1, round(side * sharpness)) for side in size], Image.Resampling.BOX)
        image = small.resize(size, Image.Resampling.BICUBIC)
    radius = camera.blur * rng.uniform(0.5, 1.3) * size[1] / HEIGHT
    if radius > 0.25:
        image = image.filter(ImageFilter.GaussianBlur(radius))
    saturation = camera.saturation * rng.uniform(0.92, 1.08)
    image = Image.blend(image.convert("L").convert("RGB"), image, saturation)
    image = image.point(_response(camera, rng))
    slope = 1 + np.linspace(-0.5, 0.5, size[0], dtype=np.float32) * np.float32(rng.uniform(-0.14, 0.14))
    noise = rng.standard_normal((size[1], size[0], 3), dtype=np.float32)
    noise *= np.float32(camera.noise * rng.uniform(0.7, 1.3))
    pixels = np.asarray(image, dtype=np.float32) * slope[None, :, None] + noise
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _response(camera: Camera, rng: np.random.Generator) -> list[int]:
    """What the camera makes of each of 256 levels of red, green and blue: gamma, contrast, colour cast, haze."""
    levels = (np.arange(256) / 255) ** (camera.gamma * rng.uniform(0.9, 1.1))
    levels = (levels - 0.45) * camera.contrast * rng.uniform(0.93, 1.07) + 0.45
    gain = np.asarray(camera.gain) * rng.uniform(0.96, 1.04, 3)
    return np.rint(gain[:, None] * levels * 255 + camera.lift).clip(0, 255).astype(int).ravel().tolist()
