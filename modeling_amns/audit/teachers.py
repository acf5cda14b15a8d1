"""The teacher that a checkpoint holds, as a second opinion on its pairs."""

from pathlib import Path
from typing import Any, cast

from safetensors.torch import load_file

from ..ema import ImageTeacher
from ..masked_training import TEACHER_FILE
from ..modeling_amns import AMNSModel


def teacher_of(model: AMNSModel, checkpoint: str | Path) -> AMNSModel | None:
    """A checkpoint with the moving average of its image encoder in the place of the encoder.

    Args:
        model: of the checkpoint, as it is used: on its device, at its image size.
        checkpoint: its folder; only those inside an `output_dir`, of runs with AWM, have a teacher.
    Returns:
        another model of the same size and device; `None` where there is no teacher.
    Raises:
        ValueError: its file can't be read, or is of another model.
    """
    file = Path(checkpoint) / TEACHER_FILE
    if not file.is_file():
        return None
    # Anew, and not a copy of the model, which may see images of another size than the run that averaged it.
    found = AMNSModel.from_pretrained(checkpoint)
    teacher = ImageTeacher(found)
    try:
        teacher.load_state_dict(load_file(file))
    # What safetensors and torch raise of a broken file, or one of another size.
    except Exception as error:
        raise ValueError(
            f"{file} is not the teacher of {checkpoint} ({type(error).__name__}), so the checkpoint is damaged. Audit "
            "another one, or the output_dir of the run, which has no teacher."
        ) from error
    found.image_side().load_state_dict(teacher.module.state_dict())
    vision = model.config.vision_config
    found.resize_grid(vision.image_size, vision.stride)
    moved: Any = found.eval()
    return cast(AMNSModel, moved.to(model.device))


__all__ = ["teacher_of"]
