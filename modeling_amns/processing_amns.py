"""Processor of AMNS: person crops to normalised pixels, captions to tokens; no network, torchvision optional."""

import functools
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerBase, SiglipImageProcessorPil
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_base import BatchFeature as ImageFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import ChannelDimension, ImageInput, SizeDict
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import TensorType

from .captions_amns import check_long_captions, clean_caption, prepare_tokenizer, train_tokenizer
from .configuration_base_amns import ReadsFamilies
from .image_modes_amns import as_rgb, flat_images, is_unit_range, size_pair, to_rgb

_CAPTIONS_AT_ONCE = 1024
# Rescale factor; mean and deviation of each channel.
Normalization = tuple[float, tuple[float, ...], tuple[float, ...]]

# A fast tokenizer keeps padding and truncation of the call in hand as a state of its own, shared by all threads.
_tokenizer_lock = threading.Lock()


def _renew_lock() -> None:
    global _tokenizer_lock
    _tokenizer_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    # A worker that was forked while another thread held the lock would wait for ever.
    os.register_at_fork(after_in_child=_renew_lock)


class AMNSImageProcessor(CLIPImageProcessorPil):
    """Images of every kind to normalised pixels: CLIP's image processor by Pillow, always, for whole person crops.

    Before anything else an image becomes upright 8-bit RGB (`image_modes_amns`), whether it comes as a PIL image of
    any mode, a path, a URL, an array or a tensor, alone, in batches or in nested lists. Without crop by default, in
    384x128. The other fields are those of `CLIPImageProcessor`; `do_convert_rgb` has no effect.

    ```python
    >>> import numpy as np
    >>> from modeling_amns.processing_amns import AMNSImageProcessor
    >>> pixels = AMNSImageProcessor(size=64)(np.zeros((3, 40, 20)), return_tensors="pt").pixel_values
    >>> pixels.shape, round(pixels.min().item(), 4)
    (torch.Size([1, 3, 64, 64]), -1.7923)

    ```
    """

    size = {"height": 384, "width": 128}
    crop_size = {"height": 384, "width": 128}
    default_to_square = True
    do_center_crop = False
    do_pad: bool | None = None

    @classmethod
    def from_image_processor(cls, other: BaseImageProcessor) -> "AMNSImageProcessor":
        """One with all settings of another image processor of CLIP's kind, its crop included."""
        return cls(**{name: getattr(other, name, None) for name in cls.valid_kwargs.__annotations__})

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> "AMNSImageProcessor":
        """As `ImageProcessingMixin.from_dict`; what another class saved is completed with its defaults."""
        # Where the folder's code lies is the folder's affair.
        saved = {name: value for name, value in image_processor_dict.items() if name != "auto_map"}
        kind = saved.get("image_processor_type") or saved.get("feature_extractor_type") or cls.__name__
        if kind != cls.__name__:
            family = SiglipImageProcessorPil if kind.startswith("SiglipImageProcessor") else CLIPImageProcessorPil
            saved = {**family(**saved).to_dict(), "image_processor_type": cls.__name__}
        return super().from_dict(saved, **kwargs)

    @property
    def normalization(self) -> Normalization:
        """Rescale factor, mean and deviation in force, the latter two of each channel; 1, 0, 1 where a step is off."""
        return _normalization(self.do_rescale, self.rescale_factor, self.do_normalize, self.image_mean, self.image_std)

    def fetch_images(self, image_url_or_urls: ImageInput) -> ImageInput:  # type: ignore[override]
        """Left to `process_image`, which reads paths and URLs without losing their mode."""
        return image_url_or_urls

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> ImageInput:
        flat = flat_images(images)
        if not flat:
            raise ValueError("There are no images; expected at least one.")
        return cast(ImageInput, flat)

    def process_image(
        self,
        image: object,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        do_rescale: bool | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """One image of any kind as [3, height, width]: bytes, or float32 in [0, 1].

        The latter where the caller says with `do_rescale=False` that floats in [0, 1] are rescaled already.
        """
        first = None if input_data_format is None else ChannelDimension(input_data_format) == ChannelDimension.FIRST
        pixels = np.asarray(as_rgb(image, first)).transpose(2, 0, 1)
        return pixels if do_rescale or not is_unit_range(image) else pixels.astype(np.float32) / 255

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_resize: bool,
        size: SizeDict,
        resample: Image.Resampling | None,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float] | None,
        image_std: float | list[float] | None,
        do_pad: bool | None,
        pad_size: SizeDict | None,
        return_tensors: str | TensorType | None,
        **kwargs: Any,
    ) -> ImageFeature:
        used = _normalization(do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        scale, shift = (values[:, None, None] for values in _scale_and_shift(*used))
        processed = []
        for image in images:
            if do_resize:
                image = self.resize(image=image, size=size, resample=resample)
            if do_center_crop:
                image = self.center_crop(image, crop_size)
            if do_rescale or do_normalize:
                image = image.astype(np.float32) * scale - shift
            processed.append(image)
        if do_pad:
            # `None`, which the base class takes too, is the size of the largest.
            processed = cast(list[np.ndarray], self.pad(processed, pad_size=cast(SizeDict, pad_size)))
        return ImageFeature(data={"pixel_values": processed}, tensor_type=return_tensors)


class AMNSProcessorKwargs(ProcessingKwargs, total=False):
    """Options of a call: those of transformers."""


class AMNSProcessor(ProcessorMixin):
    """Prepares images and captions for AMNS models.

    Images become upright RGB whatever they come as, are resized to height x width without crop and normalised
    (`AMNSImageProcessor`). Captions are unescaped (`&amp;`) and cut at the tokenizer's `model_max_length`; a literal
    `<|endoftext|>` inside one is read as plain characters and cannot end it early. Threads may share a processor.

    Args:
        image_processor: an `AMNSImageProcessor`; another one of CLIP's kind is replaced by one with its settings.
        tokenizer: of CLIP: OpenAI's, loaded from a CLIP checkpoint, or one from `train_tokenizer`; or that of a SigLIP
            checkpoint. One without a `model_max_length` gets CLIP's 77 or SigLIP's 64.
        caption_rules: "clip" pads captions to the longest of a call. "siglip" lower-cases them and pads each on the
            right to `max_tokens`, as SigLIP was trained, whose text encoder pools the last position and sees padding.
            `None`: SigLIP's with an image processor of SigLIP, else CLIP's.
        long_captions: what training and embedding make of captions of more than `max_tokens`: "cut" them and say how
            many; "refuse" them; "windows" reads them whole, in parts (`embedding.embed_texts`). The processor itself
            cuts in a call, as CLIP's does.

    `from_pretrained(path, image_size=[height, width])` sets another size, which a CLIP checkpoint needs: its own
    processor crops a square.

    ```python
    >>> from modeling_amns import AMNSProcessor
    >>> processor = AMNSProcessor.from_captions(["a man in a red coat", "a woman with a blue bag"], [128, 48])
    >>> processor(text="a man in a blue coat", return_tensors="pt").input_ids.shape
    torch.Size([1, 8])

    ```
    """

    valid_processor_kwargs = AMNSProcessorKwargs
    image_processor: AMNSImageProcessor
    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        caption_rules: str | None = None,
        long_captions: str = "cut",
        **kwargs: Any,
    ):
        if caption_rules is None:
            of_siglip = type(image_processor).__name__.startswith("SiglipImageProcessor")
            caption_rules = "siglip" if of_siglip else "clip"
        if image_processor is not None and not isinstance(image_processor, AMNSImageProcessor):
            image_processor = AMNSImageProcessor.from_image_processor(image_processor)
        super().__init__(image_processor, tokenizer)
        self.caption_rules = caption_rules
        self.long_captions = check_long_captions(long_captions)
        if tokenizer is not None:
            prepare_tokenizer(tokenizer, caption_rules)

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, image_size: int | Sequence[int]) -> "AMNSProcessor":
        """A processor with this tokenizer and CLIP's normalisation for images of `image_size` (height, width)."""
        height, width = size_pair(image_size)
        size = {"height": height, "width": width}
        return cls(AMNSImageProcessor(size=size, crop_size=size), tokenizer)

    @classmethod
    def from_captions(
        cls, captions: Iterable[str], image_size: int | Sequence[int], vocab_size: int = 4096
    ) -> "AMNSProcessor":
        """A processor for training from scratch, its tokenizer trained on the captions; see `train_tokenizer`."""
        return cls.from_tokenizer(train_tokenizer(captions, vocab_size), image_size)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        image_size: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> "AMNSProcessor":
        """As `ProcessorMixin.from_pretrained`; of OpenCLIP's folders too.

        Args:
            image_size: (height, width), or one number for a square: replaces the stored size and any crop. All else
                (mean, deviation, resampling, ...) stays the checkpoint's.
        """
        try:
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError:
            read = ReadsFamilies.processor_elsewhere
            found = read(str(pretrained_model_name_or_path), kwargs) if read is not None else None
            if found is None:
                raise
            processor = found
        if image_size is not None:
            processor.image_size = image_size
        return processor

    def save_pretrained(self, *args: Any, **kwargs: Any) -> list[str]:
        """As `ProcessorMixin.save_pretrained`; what it saved and what is loaded of it are equal."""
        written = super().save_pretrained(*args, **kwargs)
        for part in (self, self.image_processor):
            part.__dict__.pop("auto_map", None)
        return written

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the processed images in pixels; setting it (a number is a square) ends any crop."""
        size = dict(self.image_processor.size)
        if not size.get("height") or not size.get("width"):
            raise ValueError(
                f"The image processor makes images of {size}, not of one height and width. Set image_size, as "
                "AMNSProcessor.from_pretrained(path, image_size=[height, width]) does."
            )
        return size["height"], size["width"]

    @image_size.setter
    def image_size(self, image_size: int | Sequence[int]) -> None:
        height, width = size_pair(image_size)
        images = self.image_processor
        # transformers declares dicts and keeps these.
        images.size = images.crop_size = cast(dict[str, int], SizeDict(height=height, width=width))
        images.do_center_crop = False

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest caption, start and end included: the tokenizer's `model_max_length`."""
        return self.tokenizer.model_max_length

    @max_tokens.setter
    def max_tokens(self, max_tokens: int) -> None:
        self.tokenizer.model_max_length = max_tokens

    @property
    def padded_length(self) -> int | None:
        """Tokens that every caption is padded to; `None` pads to the longest."""
        return self.max_tokens if self.caption_rules == "siglip" else None

    @property
    def text_config_fields(self) -> dict[str, int]:
        """The fields of `AMNSTextConfig` that have to fit the tokenizer."""
        tokenizer = self.tokenizer
        return {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }

    def __call__(
        self,
        images: ImageInput | None = None,
        text: str | Iterable[str] | None = None,
        **kwargs: Unpack[AMNSProcessorKwargs],
    ) -> BatchFeature:
        """Processes images, captions or both; arguments and result as transformers' `CLIPProcessor`.

        Args:
            images: a PIL image, path, URL, array or tensor, a batch of them, or lists of these, nested or not. Floats
                are in [0, 1] or [0, 255]; values outside are a ValueError.
            text: a caption or a list of captions.
            kwargs: as `CLIPProcessor`. Captions are padded to the longest and cut at `max_tokens`, the end token kept,
                unless `padding`, `truncation` or `max_length` say otherwise. Under SigLIP's rules `padding=True` pads
                as `padding="max_length"` does.
        Returns:
            `BatchFeature` with `pixel_values` float [B, 3, height, width], `input_ids` and `attention_mask` [B, T].
        """
        if text is None:
            return super().__call__(images=images, **kwargs)
        captions = clean_caption(text) if isinstance(text, str) else [clean_caption(caption) for caption in text]
        options: dict[str, Any] = {**kwargs}
        given = options | options.get("text_kwargs", {})
        padding = "max_length" if self.padded_length else True
        # Said aloud, because a tokenizer's file remembers limit and padding of some earlier call.
        defaults = {"padding": padding, "truncation": True, "max_length": self.max_tokens}
        options |= {name: value for name, value in defaults.items() if name not in given}
        if self.padded_length and given.get("padding") in (True, "longest"):
            # The longest of a call is no length that SigLIP takes.
            place = options["text_kwargs"] = {**options.get("text_kwargs", {})}
            (place if "padding" in place else options)["padding"] = padding
        with _tokenizer_lock:
            features = super().__call__(text=captions, **options)
        if images is not None:
            features.update(super().__call__(images=images, **kwargs))
        return features

    def resize_image(self, image: Image.Image) -> Image.Image:
        """An image of any mode in RGB, upright, in `image_size`: what `normalize_images` takes."""
        height, width = self.image_size
        image = to_rgb(image)
        if image.size == (width, height):
            return image
        return image.resize((width, height), Image.Resampling(self.image_processor.resample))

    def normalize_images(self, images: Tensor) -> Tensor:
        """Bytes (or floats in [0, 255]) as of `resize_image` to the bits of `pixel_values`, on their device."""
        scale, shift = _on_device(self.image_processor.normalization, images.device)
        # In place and in the order of rows: on a CPU new memory and strided bytes cost more than the arithmetic.
        values = images.to(torch.float32, memory_format=torch.contiguous_format)
        return (values.clone() if values is images else values).mul_(scale).sub_(shift)

    def token_ids(self, captions: Sequence[str], cut: bool = True) -> list[list[int]]:
        """Token ids of each caption with start and end, cut at `max_tokens` or whole, not padded."""
        cleaned = [clean_caption(caption) for caption in captions]
        limit = {"truncation": True, "max_length": self.max_tokens} if cut else {"truncation": False}
        found: list[list[int]] = []
        with _tokenizer_lock:
            # A part at a time: offsets and all that a tokenizer notes beside the ids take ten times their memory.
            for start in range(0, len(cleaned), _CAPTIONS_AT_ONCE):
                part = cleaned[start : start + _CAPTIONS_AT_ONCE]
                found += self.tokenizer(part, **limit, verbose=False, return_attention_mask=False)["input_ids"]
        return found


def _normalization(
    do_rescale: bool, factor: float, do_normalize: bool, mean: ArrayLike | None, std: ArrayLike | None
) -> Normalization:
    mean, std = (mean, std) if do_normalize and mean is not None and std is not None else (0.0, 1.0)
    means, deviations = (np.broadcast_to(np.asarray(values, dtype=np.float64), 3) for values in (mean, std))
    return (factor if do_rescale else 1.0), tuple(means.tolist()), tuple(deviations.tolist())


def _scale_and_shift(factor: float, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`(bytes * factor - mean) / std` as `bytes * scale - shift` on every road, float32 [3]."""
    return np.float32(factor / np.array(std)), np.float32(np.array(mean) / np.array(std))


@functools.lru_cache(maxsize=32)
def _on_device(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept, so that a step on a GPU copies nothing; outside inference mode, so that any step may use it.
    with torch.inference_mode(False):
        scale, shift = (torch.from_numpy(values).to(device) for values in _scale_and_shift(*normalization))
        return scale.view(3, 1, 1), shift.view(3, 1, 1)


# `save_pretrained` copies the code beside the settings, for users without the package (`trust_remote_code=True`).
AMNSImageProcessor.register_for_auto_class("AutoImageProcessor")
AMNSProcessor.register_for_auto_class("AutoProcessor")
