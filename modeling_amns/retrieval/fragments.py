"""Names of persons in frames: `clip.mp4#t=12.48&xywh=310,80,96,240`, the media fragments that the W3C has defined.

A name says which file, which second of it, and which box (left, top, width, height in pixels of the upright frame).
"""

import re
from dataclasses import dataclass
from pathlib import Path

_FRAGMENT = re.compile(r"(?P<source>.+)#(?:t=(?P<second>\d+(?:\.\d+)?)&)?xywh=(?P<box>\d+,\d+,\d+,\d+)", re.DOTALL)


@dataclass(frozen=True)
class Fragment:
    """Where a person was seen.

    Args:
        source: name of the image or the recording.
        box: left, top, width, height in pixels.
        second: since the recording's first frame, to the millisecond; `None` in an image.

    ```python
    >>> str(Fragment("clip.mp4", (310, 80, 96, 240), 12.48))
    'clip.mp4#t=12.48&xywh=310,80,96,240'
    >>> Fragment.of("hall.jpg#xywh=1,2,3,4")
    Fragment(source='hall.jpg', box=(1, 2, 3, 4), second=None)
    >>> Fragment.of("hall.jpg") is None
    True

    ```
    """

    source: str
    box: tuple[int, int, int, int]
    second: float | None = None

    def __str__(self) -> str:
        # No exponents, no zeros at the end: one second has one name.
        moment = "" if self.second is None else f"t={self.second:.3f}".rstrip("0").rstrip(".") + "&"
        return f"{self.source}#{moment}xywh={self.shown_box}"

    @property
    def shown_box(self) -> str:
        """The box as names and metadata hold it."""
        return ",".join(map(str, self.box))

    @classmethod
    def of(cls, path: str) -> "Fragment | None":
        """What a path in a gallery says; `None` for that of a whole image."""
        found = _FRAGMENT.fullmatch(path)
        if found is None:
            return None
        left, top, width, height = map(int, found["box"].split(","))
        second = None if found["second"] is None else float(found["second"])
        return cls(found["source"], (left, top, width, height), second)


def source_of(path: str) -> str:
    """The file that a path in a gallery is of: that of a person's frame, or the path itself."""
    found = Fragment.of(path)
    return path if found is None else found.source


def cut_from(root: Path | None, path: str) -> Fragment | None:
    """What a path in a gallery was cut out of; `None` for that of a whole image, whose file may be called so too."""
    found = Fragment.of(path)
    return None if found is None or ((root or Path()) / path).exists() else found


__all__ = ["Fragment", "cut_from", "source_of"]
