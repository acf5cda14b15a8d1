"""How `AMNSTrainer` pushes: each push uploads a whole checkpoint with its card, and nothing else of the run."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

from accelerate.utils import is_peft_model
from huggingface_hub import CommitInfo
from huggingface_hub.errors import HTTPError
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from .cards import PICTURES, model_card
from .hub import push_checkpoint
from .repository import client, refuse_public
from .training_args import AMNSTrainingArguments

logger = logging.get_logger(__name__)


def refuse_unfit_pushes(model: nn.Module, args: AMNSTrainingArguments) -> None:
    """Asked before a trainer makes the repository.

    Raises:
        ValueError: `hub_strategy` would upload optimizer states, or adapters without their base.
    """
    if not args.push_to_hub or args.hub_strategy == HubStrategy.END:
        return
    if args.hub_strategy != HubStrategy.EVERY_SAVE:
        raise ValueError(
            f"hub_strategy {HubStrategy(args.hub_strategy).value} would upload optimizer and teacher; choose "
            "every_save or end."
        )
    if is_peft_model(model):
        raise ValueError("Adapters are merged when a run ends: use hub_strategy end with use_peft.")


class PushesCheckpoints(Trainer):
    """A `Trainer` whose pushes upload what `push_checkpoint` does, at the end or, with `hub_strategy="every_save"`,
    with each checkpoint while training goes on."""

    args: AMNSTrainingArguments

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As `Trainer`.

        Raises:
            huggingface_hub.errors.LocalTokenNotFoundError: there is no token; the client alone would say so only after
                training, where the repository is there already.
            ValueError: a private repository is asked for and a public one of that name is there.
        """
        if not self.is_world_process_zero():
            return
        api = client(token or self.args.hub_token)
        if private is not None:
            # Older releases of transformers read it from there only.
            self.args.hub_private_repo = private
        super().init_hf_repo(token=token)
        if self.args.hub_private_repo:
            refuse_public(api, cast(str, self.hub_model_id))

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Writes the card of `output_dir` as `README.md` there.

        Args:
            license: of the weights; default `hub_license`.
            tags: besides the package's own.
            model_name: title, where no `hub_model_id` gives one.
            language: the captions that the package reads are English, "en".
            finetuned_from, tasks, dataset_tags, dataset, dataset_args: must stay out; what the card says of them comes
                from the run.
        Raises:
            ValueError: one of these is given, or another language.
        """
        _refuse_for_card(
            language=None if language == "en" else language,
            finetuned_from=finetuned_from,
            tasks=tasks,
            dataset_tags=dataset_tags,
            dataset=dataset,
            dataset_args=dataset_args,
        )
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            name = self.hub_model_id or self.args.hub_model_id or model_name or folder.name
            pictures = [picture for picture in PICTURES if (folder / picture).is_file()]
            card = model_card(folder, name, license or self.args.hub_license, pictures, tags=tags)
            card.save(folder / "README.md")

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        **kwargs: object,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Saves the model and pushes it with its card to `hub_model_id`; arguments as `Trainer.push_to_hub`, of those
        for the card as `create_model_card`. `model_name` gives way to `hub_model_id`, as there.

        Returns:
            on the main process the commit, or with `blocking=False` its future.
        Raises:
            ValueError: the model has adapters that are not merged, or an argument means nothing here.
        """
        _refuse_for_card(**kwargs)
        if is_peft_model(self.accelerator.unwrap_model(self.model)):
            raise ValueError("The model has adapters: merge them first with modeling_amns.adapters.save_final.")
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        # The card shows the evaluations of this run.
        self.save_state()
        self._finish_current_push()
        return push_checkpoint(
            str(self.args.output_dir),
            cast(str, self.hub_model_id),
            private=private,
            token=token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message or "End of training",
            license=license or self.args.hub_license,
            tags=tags,
            run_as_future=not blocking,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        earlier: PushInProgress | None = self.push_in_progress
        busy = earlier is not None and not earlier.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        step = self.state.global_step
        try:
            pushed = push_checkpoint(
                checkpoint_folder,
                cast(str, self.hub_model_id),
                token=self.args.hub_token,
                revision=self.args.hub_revision,
                commit_message=f"Training in progress, step {step}",
                license=self.args.hub_license,
                run_as_future=True,
            )
        # Days of training do not end for a network that is away; the push at the end says what is wrong.
        except (OSError, ValueError, HTTPError) as error:
            logger.warning(f"Step {step} was not pushed, training goes on: {error}")
            return
        upload = cast("Future[CommitInfo]", pushed)
        upload.add_done_callback(lambda done: _warn_if_failed(done, step))
        if earlier is not None and busy:
            cast(list, earlier.jobs).append(upload)
        else:
            # Typed as None where `Trainer` makes it.
            self.push_in_progress = cast(Any, PushInProgress(cast(Any, [upload])))


def _refuse_for_card(**given: object) -> None:
    """A ValueError for what `Trainer` would put into its card and ours has from the run, or for a misspelt name."""
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise ValueError(
            f"{', '.join(unused)} can't be given: the card takes what it says from the run. license, tags and "
            "model_name can."
        )


def _warn_if_failed(upload: "Future[CommitInfo]", step: int) -> None:
    if upload.exception() is not None:
        logger.warning(f"Step {step} was not pushed, training goes on: {upload.exception()}")


__all__ = ["PushesCheckpoints", "refuse_unfit_pushes"]
