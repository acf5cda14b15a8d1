"""A font that can draw a text: Pillow's own for Latin, else one of the system's, else the text in code points."""

from functools import cache

from PIL import ImageFont
from transformers.utils import logging

logger = logging.get_logger(__name__)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
# Fonts with Chinese, Japanese and Korean that systems bring, found by file name in the folders where fonts lie.
SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "simsun.ttc",
    "Arial Unicode.ttf",
    "DejaVuSans.ttf",
)
# A code point that no font has: what a font draws for it is what it draws for all that it lacks.
_MISSING = "\U0010fffe"


def font_for(text: str, size: int) -> tuple[Font, str]:
    """A font and the text to draw with it.

    Where no font on this system has a character of the text, it is written as its code point (`U+7EA2`) instead of a
    box, and a warning says so once.

    Args:
        text: in any script.
        size: of the font in pixels.
    """
    own = ImageFont.load_default(size)
    if _draws(own, text):
        return own, text
    for name in SYSTEM_FONTS:
        font = _system_font(name, size)
        if font is not None and _draws(font, text):
            return font, text
    logger.warning_once(
        "No font here draws all characters of the captions; the picture shows their code points. Fonts for Chinese, "
        "Japanese and Korean: Noto Sans CJK (Debian: fonts-noto-cjk)."
    )
    return own, "".join(c if _draws(own, c) else f"U+{ord(c):04X} " for c in text).rstrip()


@cache
def _system_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    # No such file, or Pillow was built without FreeType.
    except (OSError, ImportError):
        return None


def _draws(font: Font, text: str) -> bool:
    if isinstance(font, ImageFont.ImageFont):
        # Pillow's bitmap font, without FreeType.
        return text.isascii()
    missing = bytes(font.getmask(_MISSING))
    return all(c.isspace() or bytes(font.getmask(c)) != missing for c in set(text))


__all__ = ["font_for"]
