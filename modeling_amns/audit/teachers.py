"""The teacher that a checkpoint holds, as a second opinion on its pairs."""

import copy
from pathlib import Path
from typing import cast

from safetensors.torch import load_file

from ..ema import ImageTeacher
from ..masked_training import TEACHER_FILE
from ..modeling_amns import AMNSModel


def teacher_of(model: AMNSModel, checkpoint: str | Path) -> AMNSModel | None:
    """The model with the moving average of its image encoder in the place of the encoder.

    Args:
        model: of the checkpoint.
        checkpoint: its folder; only those inside an `output_dir`, of runs with AWM, have a teacher.
    Returns:
        a copy on the model's device; `None` where there is no teacher.
    Raises:
        ValueError: its file can't be read, or is of another model.
    """
    file = Path(checkpoint) / TEACHER_FILE
    if not file.is_file():
        return None
    # The text encoder is the model's own; the copy shares it with nobody, which costs its memory once more.
    found = copy.deepcopy(model)
    teacher = ImageTeacher(model)
    try:
        teacher.load_state_dict(load_file(file, device=str(model.device)))
    # What safetensors and torch raise of a broken file, or one of another size.
    except Exception as error:
        raise ValueError(
            f"{file} is not the teacher of {checkpoint} ({type(error).__name__}); remove it to go on without."
        ) from error
    found.image_side().load_state_dict(teacher.module.state_dict())
    return cast(AMNSModel, found.eval())


__all__ = ["teacher_of"]
