"""What `AMNSTrainer` shows its student: the augmented batch and, under AWM, the patches that its teacher leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .checkpoints import WholeCheckpoints
from .data.transforms import erase_boxes, jitter_colors
from .ema import ImageTeacher
from .masking import erased_patches, patch_scores, select_patches
from .objective import LossRecord
from .splits import EvaluatesSplits
from .training_args import AMNSTrainingArguments

TEACHER_FILE = "teacher.safetensors"
_BATCH = ("images", "input_ids", "attention_mask", "person_ids", "rows")


class MasksPatches(EvaluatesSplits, WholeCheckpoints):
    """A `Trainer` with a teacher, which chooses patches and is kept with each checkpoint."""

    args: AMNSTrainingArguments
    record: LossRecord
    teacher: ImageTeacher | None = None

    def start_teacher(self) -> None:
        """Under AWM a new copy of the student, without AWM none."""
        args, self.teacher = self.args, None
        if args.keep_ratio < 1:
            self.teacher = ImageTeacher(
                self.student,
                args.ema_decay,
                self.from_scratch if args.ema_ramp is None else args.ema_ramp,
                args.mask_image_scale,
            )

    def _model_inputs(self, inputs: Mapping[str, Tensor], chunk_size: int | None = None) -> dict[str, Tensor]:
        """Augmented pixels, tokens and, under AWM, the patches that the student sees (teacher in chunks)."""
        missing = [name for name in _BATCH if name not in inputs]
        if missing:
            raise ValueError(f"data_collator left out {', '.join(missing)}; see PairCollator for what a batch holds.")
        images, jitter, erase = inputs["images"], inputs.get("jitter"), inputs.get("erase")
        prepared = {name: inputs[name] for name in self.text_inputs}
        masked = self.teacher is not None and not self._shows_whole_images()
        kept: Tensor | None = None
        raw = masked and self.args.mask_image == "raw"
        if raw or jitter is None:
            prepared["pixel_values"] = self.processor.normalize_images(images)
        if raw:
            # Flipped and cropped already, so that its patches are those of what the student sees.
            kept = self.keep_indices(prepared, chunk_size or len(images), erase)
        if jitter is not None:
            prepared["pixel_values"] = self.processor.normalize_images(jitter_colors(images, jitter))
        if erase is not None:
            prepared["pixel_values"] = erase_boxes(prepared["pixel_values"], erase)
        if masked and not raw:
            kept = self.keep_indices(prepared, chunk_size or len(images), erase)
        return prepared if kept is None else {**prepared, "keep_indices": kept}

    def _shows_whole_images(self) -> bool:
        """Whether this step is one of the last, of `unmasked_share`."""
        share, steps = self.args.unmasked_share, self.state.max_steps
        return share > 0 and steps > 0 and self.state.global_step >= round((1 - share) * steps)

    @torch.no_grad()
    def keep_indices(self, prepared: dict[str, Tensor], chunk_size: int, erase: Tensor | None = None) -> Tensor:
        """The patches that the teacher leaves, int64 [B, K], of `pixel_values` (and tokens, for mask_score text).

        Args:
            prepared: inputs of the model, of whole images.
            chunk_size: so many images are scored at a time.
            erase: of what the student sees, boxes as `Augmentation.draw` gives them, int64 [B, 4]: patches in them go
                last.
        """
        args, teacher, pixel_values = self.args, cast(ImageTeacher, self.teacher), prepared["pixel_values"]
        teacher.to(pixel_values.device)
        text_embeds = generator = None
        if args.mask_score == "text":
            tokens = {name: prepared[name] for name in self.text_inputs}
            text_embeds = self.student.get_text_features(**tokens).pooler_output
        elif args.mask_score == "random":
            # From the step alone, so that a resumed run masks as an uninterrupted one.
            place = [args.seed, self.state.global_step, self.record.micro_batches, args.process_index]
            generator = torch.Generator(pixel_values.device)
            generator.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))
        scores = [
            patch_scores(
                args.mask_score,
                teacher,
                pixel_values[start : start + chunk_size],
                None if text_embeds is None else text_embeds[start : start + chunk_size],
                args.mask_last_layers,
                generator,
            )
            for start in range(0, len(pixel_values), chunk_size)
        ]
        grid, erased = self.student.grid_size, None
        if erase is not None:
            erased = erased_patches(erase, grid, *self.student.patch_and_stride)
        return select_patches(torch.cat(scores), args.keep_ratio, grid, args.mask_block, erased)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.teacher is not None and self.args.should_save:
            save_file(
                {name: value.contiguous() for name, value in self.teacher.state_dict().items()},
                Path(output_dir) / TEACHER_FILE,
            )

    def _check_state(self, checkpoint: Path) -> None:
        super()._check_state(checkpoint)
        if self.teacher is not None and not (checkpoint / TEACHER_FILE).is_file():
            raise FileNotFoundError(
                f"{checkpoint} has no {TEACHER_FILE}, so it was written with keep_ratio 1. Resume with the options "
                "that it was started with, or start from its weights with --model_name_or_path."
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.teacher is not None:
            self.teacher.load_state_dict(load_file(Path(checkpoint) / TEACHER_FILE))


__all__ = ["TEACHER_FILE", "MasksPatches"]
