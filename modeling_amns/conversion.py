"""Checkpoints of others as an `AMNSModel`: files in the layout of OpenAI's CLIP, and folders of transformers.

Whose a file is and what its keys mean: `foreign_layouts`; reading it without running its code: `foreign_files`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from .clip_names import BLOCK, as_transformers
from .configuration_amns import AMNSConfig, AMNSVisionConfig
from .foreign_files import (
    HEAD_WIDTH,
    OPENCLIP_CONFIG,
    existing,
    openclip_preprocessing,
    openclip_settings,
    read_checkpoint,
    some,
    unwrap,
    weights_file,
)
from .foreign_layouts import read_encoders, refuse_unknown
from .image_modes_amns import size_pair
from .modeling_amns import AMNSModel
from .open_clip_folders import text_tokens
from .processing_amns import AMNSImageProcessor

logger = logging.get_logger(__name__)


def convert_checkpoint(
    path: str | Path,
    image_size: int | Sequence[int] | None = None,
    stride: int | None = None,
    hidden_act: str | None = None,
    head_width: int | None = None,
) -> AMNSModel:
    """Reads a checkpoint of another project into an `AMNSModel`, on the CPU, in float32, in evaluation mode.

    Recognised by its keys: OpenAI CLIP (state dict or TorchScript archive), OpenCLIP (any ViT of CLIP's shape),
    Long-CLIP (captions of 248 tokens), TBPS-CLIP, IRRA (NAM, HAM, GA-DMS, FMFA) and RDE (CECA, ICL), which have
    `{"model": {"base_model.visual...": ...}}`; a transformers `CLIPModel` or `AMNSModel` folder. The architecture
    follows from the shapes. A tensor of an encoder is used or the file is refused; what only training needs, and the
    token selection of RDE, is listed in a warning. No Python code of the file is run.

    Args:
        path: a file (torch pickle, TorchScript archive or safetensors), or a folder with `config.json` (transformers)
            or `open_clip_config.json` (OpenCLIP on the Hub).
        image_size: height and width in pixels that the model is for, one number for a square. Where the file has that
            many positions they are taken as they are, otherwise its grid (OpenCLIP's configuration names it, else
            square, or 3:1 as in person crops) is resized. `None`: its grid.
        stride: step between patches in pixels if they overlap (IRRA's `stride_size`). `None`: the folder's own, of a
            file the patch size.
        hidden_act: `"quick_gelu"` or `"gelu"`, which no file of weights records. `None`: quick_gelu where the keys
            tell who wrote them, OpenCLIP's configuration file where there is one, else a guess that a warning tells.
        head_width: channels of an attention head of the image encoder; `None` means 64, as in CLIP, or OpenCLIP's
            configuration file. OpenCLIP's ViT-H needs 80, ViT-g 88, ViT-bigG 104.
    Returns:
        the model. Text is pooled at the end token of CLIP's vocabulary, with another vocabulary at the largest id
        (`eos_token_id` 2 in transformers). Files of IRRA's and RDE's kind hold no temperature: 0.02, the one they
        train with.
    Raises:
        FileNotFoundError: there is no such path, or the folder holds no checkpoint.
        ValueError: the file holds code, is damaged, is no CLIP ViT, lacks weights, has parts inside the encoders that
            CLIP has not, or its positions fit no grid.

    `convert_preprocessing` returns how the same file wants its images.

    ```python
    >>> from modeling_amns.conversion import convert_checkpoint
    >>> model = convert_checkpoint("logs/CUHK-PEDES/irra/best.pth")  # doctest: +SKIP
    >>> model.config.image_size  # doctest: +SKIP
    [384, 128]

    ```
    """
    path = existing(path)
    if (path / "config.json").is_file():
        return _from_transformers(path, image_size, stride, hidden_act, head_width)
    file = weights_file(path)
    settings = openclip_settings(file.with_name(OPENCLIP_CONFIG))
    if hidden_act is not None:
        settings["hidden_act"] = hidden_act
    if head_width is not None and head_width < 1:
        raise ValueError(f"head_width must be at least 1, found {head_width}.")
    if head_width is not None:
        settings["head_width"] = head_width
    try:
        model, left_over = convert_state_dict(read_checkpoint(file), image_size, stride, **settings)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    _warn_left_over(file, left_over)
    return model


def convert_preprocessing(path: str | Path, image_size: int | Sequence[int] | None = None) -> AMNSImageProcessor:
    """How a checkpoint of another project wants its images: mean, deviation and resampling, at `image_size`.

    A transformers folder keeps its own; OpenCLIP's configuration file names them (`preprocess_cfg`); IRRA, RDE and
    their followers train with CLIP's mean and deviation and torchvision's `Resize`, which is bilinear; TBPS-CLIP with
    ImageNet's, bicubic; OpenAI's CLIP is bicubic. Crops
    and borders (`resize_mode`) are not taken over: AMNS sees whole person crops, resized.

    Args:
        path: as `convert_checkpoint`.
        image_size: height and width in pixels, one number for a square: those of the converted model. `None`: the
            square or 3:1 grid of the file.
    Raises:
        FileNotFoundError: there is no such path, or the folder holds no checkpoint.
        ValueError: the file can't be read, or its preprocessing is one that no image processor knows.
    """
    path = existing(path)
    if (path / "config.json").is_file():
        height, width = size_pair(image_size or AMNSConfig.from_pretrained(path).image_size)
        images = AMNSImageProcessor()
        if any((path / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
            images = AMNSImageProcessor.from_pretrained(path, trust_remote_code=False)
        fields = images.to_dict()
    else:
        file = weights_file(path)
        try:
            tensors, _, origin = read_encoders(unwrap(read_checkpoint(file))[0])
            if image_size is None:
                positions = len(tensors["visual.positional_embedding"]) - 1
                patch = tensors["visual.conv1.weight"].shape[-1]
                native = openclip_settings(file.with_name(OPENCLIP_CONFIG)).get("native_size")
                image_size, _ = _native_grid(positions, patch, None, None, native)
            height, width = size_pair(image_size)
            fields = {**openclip_preprocessing(file.with_name(OPENCLIP_CONFIG)), **origin.preprocessing}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from error
    size = {"height": height, "width": width}
    return AMNSImageProcessor(**{**fields, "size": size, "crop_size": size, "do_center_crop": False})


def convert_state_dict(
    checkpoint: Mapping,
    image_size: int | Sequence[int] | None = None,
    stride: int | None = None,
    hidden_act: str | None = None,
    head_width: int = HEAD_WIDTH,
    native_size: Sequence[int] | None = None,
    text_head_width: int = HEAD_WIDTH,
) -> tuple[AMNSModel, list[str]]:
    """As `convert_checkpoint`, from a state dict in OpenAI's layout or a dict that holds one.

    Args:
        native_size: height and width that the file's positions stand for, where a configuration says so.
        text_head_width: channels of an attention head of the text encoder.
    Returns:
        the model, and the keys of the checkpoint that are no part of it.
    """
    tensors, around = unwrap(checkpoint)
    encoder, left_over, origin = read_encoders(tensors)
    renamed, unknown = as_transformers(encoder)
    refuse_unknown(unknown)
    left_over += around
    if origin.note:
        logger.warning(origin.note)

    hidden_act = hidden_act or origin.hidden_act or _guess_activation(encoder)
    image_size = None if image_size is None else list(size_pair(image_size))
    head_widths = head_width, text_head_width
    model = AMNSModel(_config(encoder, image_size, stride, hidden_act, head_widths, native_size))
    if "logit_scale" not in renamed:
        known = origin.temperature
        renamed["logit_scale"] = torch.tensor(math.log(1 / known)) if known else model.logit_scale.detach()
    _check_whole(model, renamed)
    model.load_state_dict(renamed)
    if image_size is not None or stride is not None:
        model.resize_grid(image_size or model.config.image_size, stride)
    return model.eval(), left_over


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Weights of a file in OpenAI's layout under the names of `AMNSModel`; what is left over is told in a warning.

    Raises:
        ValueError: as `convert_checkpoint`; whether any are missing is seen by the model that takes them.
    """
    file = Path(file)
    try:
        tensors, around = unwrap(read_checkpoint(file))
        encoder, left_over, _ = read_encoders(tensors)
        renamed, unknown = as_transformers(encoder)
        refuse_unknown(unknown)
        _check_numbers(renamed)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    _warn_left_over(file, left_over + around)
    return renamed


def _from_transformers(
    path: Path,
    image_size: int | Sequence[int] | None,
    stride: int | None,
    hidden_act: str | None,
    head_width: int | None,
) -> AMNSModel:
    if hidden_act is not None or head_width is not None:
        raise ValueError(f"{path}: hidden_act and head_width stand in config.json; change them there.")
    grid: dict[str, Any] = {} if image_size is None else {"image_size": list(size_pair(image_size))}
    grid |= {} if stride is None else {"stride": stride}
    model, info = AMNSModel.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **grid)
    if info["missing_keys"]:
        raise ValueError(f"{path}: {len(info['missing_keys'])} weights are missing: {some(info['missing_keys'])}.")
    _warn_left_over(path, info["unexpected_keys"])
    return model


def _check_whole(model: AMNSModel, renamed: Mapping[str, Tensor]) -> None:
    """A ValueError where weights are missing, have no place in the model, or another shape than the others imply."""
    _check_numbers(renamed)
    wanted = model.state_dict()
    if missing := sorted(set(wanted) - set(renamed)):
        raise ValueError(f"{len(missing)} weights of CLIP are missing: {some(missing)}.")
    refuse_unknown(sorted(set(renamed) - set(wanted)))
    if other := [name for name in wanted if wanted[name].shape != renamed[name].shape]:
        name = other[0]
        raise ValueError(
            f"{len(other)} weights have another shape than the rest of the file asks for, {name} first: found "
            f"{list(renamed[name].shape)}, expected {list(wanted[name].shape)}. Is it put together from two models?"
        )


def _check_numbers(renamed: Mapping[str, Tensor]) -> None:
    """A ValueError for weights that are quantised, which would be read as if they were not, or not finite."""
    for name, value in renamed.items():
        if not value.is_floating_point():
            raise ValueError(
                f"{name} is {str(value.dtype).removeprefix('torch.')}, expected floating-point numbers. Quantised "
                "weights can't be read; take the file that they were made from."
            )
        if not value.isfinite().all():
            raise ValueError(f"{name} has values that are NaN or infinite; take a checkpoint from before.")


def _config(
    encoder: Mapping[str, Tensor],
    image_size: list[int] | None,
    stride: int | None,
    hidden_act: str,
    head_widths: tuple[int, int],
    native_size: Sequence[int] | None,
) -> AMNSConfig:
    needed = ["visual.conv1.weight", "visual.positional_embedding", "visual.proj"]
    needed += ["positional_embedding", "token_embedding.weight", "text_projection"]
    missing = [key for key in needed if key not in encoder]
    if missing:
        raise ValueError(f"{len(missing)} weights of CLIP are missing: {some(missing)}.")
    positions, (vocabulary, text_width) = (
        encoder["visual.positional_embedding"],
        encoder["token_embedding.weight"].shape,
    )
    width, _, _, patch = encoder["visual.conv1.weight"].shape
    head_width, text_head_width = head_widths
    if width > 1024 and head_width == HEAD_WIDTH:
        logger.warning(
            f"The image encoder is {width} wide. Its heads can't be seen from the weights; {width // HEAD_WIDTH} of "
            f"{HEAD_WIDTH} channels are assumed. OpenCLIP's ViT-H, g and bigG differ: pass head_width 80, 88 or 104."
        )
    projection = encoder["text_projection"].shape[1]
    size, native_stride = _native_grid(len(positions) - 1, patch, image_size, stride, native_size)
    vision: dict[str, Any] = {"image_size": size, "patch_size": patch, "stride": native_stride}
    text: dict[str, Any] = {"vocab_size": vocabulary, "max_position_embeddings": len(encoder["positional_embedding"])}
    text |= text_tokens(vocabulary)
    for part, tower, channels, heads in (
        (vision, "visual.", width, width / head_width),
        (text, "", text_width, text_width / text_head_width),
    ):
        if not heads.is_integer():
            raise ValueError(f"an encoder is {channels} wide, which heads of its head width don't divide.")
        blocks = {int(found[2]) for key in encoder if (found := BLOCK.fullmatch(key)) and (found[1] or "") == tower}
        hidden = encoder.get(f"{tower}transformer.resblocks.0.mlp.c_fc.weight")
        if hidden is None:
            raise ValueError(f"no transformer blocks under {tower}transformer.resblocks.")
        if gaps := set(range(max(blocks))) - blocks:
            raise ValueError(f"blocks are missing under {tower}transformer.resblocks: {some(map(str, gaps))}.")
        part |= {"hidden_size": channels, "num_hidden_layers": len(blocks), "num_attention_heads": int(heads)}
        part |= {"intermediate_size": len(hidden), "hidden_act": hidden_act, "projection_dim": projection}
    return AMNSConfig(vision_config=vision, text_config=text, projection_dim=projection)


def _native_grid(
    patches: int,
    patch: int,
    image_size: list[int] | None,
    stride: int | None,
    native_size: Sequence[int] | None = None,
) -> tuple[list[int], int | None]:
    """Image size and stride of the grid that the file's positions stand for."""
    if native_size is not None and math.prod(side // patch for side in native_size) == patches:
        return list(native_size), None
    side, third = math.isqrt(patches), math.isqrt(patches // 3)
    if image_size is not None:
        asked = AMNSVisionConfig(image_size=list(image_size), patch_size=patch, stride=stride)
        rows, columns = asked.grid_size
        if rows * columns == patches:
            if rows != columns and side * side == patches:
                logger.warning(
                    f"{patches} positions are read as the grid {rows}x{columns} of image_size {list(image_size)}. If "
                    f"they are the square {side}x{side}, convert without image_size and resize when loading."
                )
            return list(image_size), stride
    if side * side == patches:
        return [side * patch, side * patch], None
    if 3 * third * third == patches:
        return [3 * third * patch, third * patch], None
    raise ValueError(
        f"{patches} positions for patches of {patch} pixels are neither a square nor a 3:1 grid"
        f"{'' if image_size is None else f' nor that of image_size {list(image_size)}, stride {stride}'}. Pass the "
        "image_size (height, width) it was trained at, and its stride if patches overlap."
    )


def _guess_activation(encoder: Mapping[str, Tensor]) -> str:
    """The activation by the order of keys: OpenAI's blocks list attention before the first norm, OpenCLIP's after."""
    order = [key for key in encoder if key.endswith(("resblocks.0.ln_1.weight", "resblocks.0.attn.in_proj_weight"))]
    # safetensors sorts keys; OpenAI's weights are not distributed in it.
    openai = bool(order) and "attn" in order[0] and list(encoder) != sorted(encoder)
    hidden_act, origin = ("quick_gelu", "OpenAI's CLIP") if openai else ("gelu", "OpenCLIP")
    logger.warning(
        f"The file does not record its activation; {hidden_act} is taken because it looks like {origin}. Pass "
        "hidden_act to set it (quick_gelu for weights of OpenAI, DFN and MetaCLIP); a wrong one changes the features."
    )
    return hidden_act


def _warn_left_over(path: Path, keys: Iterable[str]) -> None:
    keys = sorted(keys)
    if keys:
        logger.warning(f"{path}: {len(keys)} keys are left over, no part of the encoders: {', '.join(keys)}.")


__all__ = ["convert_checkpoint", "convert_preprocessing", "convert_state_dict", "read_checkpoint", "read_weights"]
