"""Recordings: their frames every few seconds, upright and in RGB, read by PyAV (extra `video`).

A recording is a file: no address in it or in a play list is followed, and no more is read of it than it held when it
was opened. What is broken ends with what was read before.
"""

import contextlib
import datetime
import io
import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..brief import in_short
from ..extras import require
from .where import parse_time

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from PIL import Image

SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov"),
        *(".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"),
    )
)
# Beyond, time stamps are broken, or the file wants to take all the time there is.
MAX_SECONDS = 48 * 3600
# By their content. Play lists, which name other files and addresses, are none of them.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,h264,hevc"
# 2026-11-25_08-30-00, 20261125T083000, 20261125083000 and the like, as cameras name recordings.
_NAMED = re.compile(r"(?<!\d)(20\d\d)([-_.]?)(\d\d)\2(\d\d)[-_ T.]{0,2}(\d\d)([-_.h:]?)(\d\d)[-_.m:]?(\d\d)(?!\d)")


def time_in_name(name: str) -> datetime.datetime | None:
    """The date and time that a file's name holds, as cameras write them.

    >>> time_in_name("cam3/2026-11-25_08-30-00.mp4")
    datetime.datetime(2026, 11, 25, 8, 30)
    >>> time_in_name("clip 12.mp4") is None
    True
    """
    found = _NAMED.search(Path(name).name)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(found[group]) for group in (1, 3, 4, 5, 7, 8))
    with contextlib.suppress(ValueError):
        return datetime.datetime(year, month, day, hour, minute, second)
    return None


class Recording:
    """An open recording.

    Attributes:
        start: when it began, in UTC, where the file says so.
    """

    def __init__(self, container: "InputContainer", name: str):
        self.container, self.name = container, name
        self.stream = container.streams.video[0]
        self.stream.thread_type = "AUTO"
        said = self.stream.metadata.get("creation_time") or container.metadata.get("creation_time")
        start = parse_time(str(said)) if said else None
        # What cameras without a clock write.
        self.start = start if start is not None and start.year > 1971 else None

    @property
    def duration(self) -> float | None:
        """Seconds that the file says it has; it may say anything."""
        if self.stream.duration is not None and self.stream.time_base is not None:
            return float(self.stream.duration * self.stream.time_base)
        return None if self.container.duration is None else self.container.duration / 1e6

    def frames(self, every: float, after: float = 0.0) -> "Iterator[tuple[float, Image.Image]]":
        """The first frame, and then one every few seconds.

        Args:
            every: seconds between two frames at least.
            after: earlier frames are left out.
        Yields:
            seconds since the first frame, to the millisecond, and the frame.
        Raises:
            ValueError: it can't be read any further; the text says up to where it was.
        """
        wanted, last = 0.0, 0.0
        try:
            for second, frame in self._decoded():
                if second > MAX_SECONDS:
                    raise ValueError(f"a time stamp lies beyond {MAX_SECONDS // 3600} hours")
                last = max(last, second)
                if second < wanted:
                    continue
                wanted = (math.floor(second / every + 1e-6) + 1) * every
                if second >= after:
                    yield round(second, 3), _upright(frame)
            # A copy that was cut off ends without a word in some formats.
            said = self.duration
            if said is not None and last < said - max(1.0, 0.05 * said, 2 / float(self.stream.average_rate or 25)):
                raise ValueError(f"the file says that it has {shown_second(said)}; was it copied in full?")
        # PyAV has an error of its own for each of FFmpeg's.
        except Exception as error:
            raise ValueError(f"read up to {shown_second(last)} alone: {_said(error)}") from error

    def at(self, second: float) -> "Image.Image":
        """The frame that `frames` gave for this second.

        Raises:
            ValueError: there is none.
        """
        with contextlib.suppress(Exception):
            # To the last frame before it that needs no other; where that is not known, from the start.
            if second > 1 and self.stream.time_base is not None:
                offset = int((second - 1) / self.stream.time_base) + (self.stream.start_time or 0)
                self.container.seek(offset, stream=self.stream)
        for tried in range(2):
            try:
                for found, frame in self._decoded():
                    if abs(found - second) <= 1e-3:
                        return _upright(frame)
                    if found > second:
                        break
            except Exception as error:
                if tried:
                    raise ValueError(f"{self.name}: {_said(error)}") from error
            with contextlib.suppress(Exception):
                self.container.seek(0)
        raise ValueError(f"{self.name} has no frame at {shown_second(second)}; has it changed?")

    def _decoded(self) -> "Iterator[tuple[float, VideoFrame]]":
        rate = float(self.stream.average_rate or 25)
        first = self.stream.start_time
        for number, frame in enumerate(self.container.decode(self.stream)):
            if frame.pts is None or frame.time_base is None:
                yield number / rate, frame
                continue
            if first is None:
                first = frame.pts
            yield max(0.0, float((frame.pts - first) * frame.time_base)), frame


@contextlib.contextmanager
def open_recording(file: str | Path) -> Iterator[Recording]:
    """A recording, opened.

    Raises:
        FileNotFoundError, PermissionError: it can't be opened.
        ValueError: it is no regular file, none of the formats that are read, too large a picture, or holds none.
        ImportError: PyAV is not installed.
    """
    av = require("av", "video", "Reading recordings")
    from ..image_modes_amns import MAX_IMAGE_PIXELS

    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError("it is no regular file")
    with open(file, "rb") as opened:
        # FFmpeg gets bytes alone: no name that it could take for more than a file.
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
        try:
            container = av.open(_Bounded(opened), options=options)
        except Exception as error:
            raise ValueError(f"it is no recording that is read ({_said(error)})") from error
        with container:
            if not container.streams.video:
                raise ValueError("it has no pictures, only sound or the like")
            context = container.streams.video[0].codec_context
            if context is None:
                raise ValueError("its pictures are in a format that PyAV does not know")
            if context.width * context.height > MAX_IMAGE_PIXELS:
                raise ValueError(
                    f"it has {context.width:,} x {context.height:,} pixels, expected at most {MAX_IMAGE_PIXELS:,}"
                )
            # The size may change on the way.
            context.options = {**context.options, "max_pixels": str(MAX_IMAGE_PIXELS)}
            yield Recording(container, str(file))


class _Bounded(io.RawIOBase):
    """A file as long as it was when it was opened: one that is still written to has an end too."""

    def __init__(self, file: io.BufferedReader):
        self.file, self.size = file, os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self.file.tell())
        return self.file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset + self.size if whence == os.SEEK_END else offset, whence % os.SEEK_END)

    def tell(self) -> int:
        return self.file.tell()


def _said(error: Exception) -> str:
    # FFmpeg's number, and the name that it knows the file by, tell nobody anything.
    return in_short(getattr(error, "strerror", None) or error, 160)


def _upright(frame: "VideoFrame") -> "Image.Image":
    image = frame.to_image()
    turn = int(getattr(frame, "rotation", 0) or 0) % 360
    return image.rotate(turn, expand=True) if turn else image


def shown_second(second: float) -> str:
    """Seconds as people read them.

    >>> shown_second(3725.5)
    '1:02:05.5'
    """
    minutes, rest = divmod(round(second, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}"


__all__ = ["MAX_SECONDS", "SUFFIXES", "Recording", "open_recording", "shown_second", "time_in_name"]
