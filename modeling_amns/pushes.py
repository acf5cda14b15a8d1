"""How `AMNSTrainer` pushes: each push uploads a whole checkpoint with its card, and nothing else of the run."""

from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import CommitInfo
from huggingface_hub.errors import HTTPError
from transformers import PreTrainedModel
from transformers.trainer_utils import HubStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from .adapters import has_adapters
from .cards import PICTURES, model_card
from .hub import push_checkpoint
from .repository import client, refuse_public
from .training_args import AMNSTrainingArguments

logger = logging.get_logger(__name__)


def refuse_unfit_pushes(model: PreTrainedModel, args: AMNSTrainingArguments) -> None:
    """Asked before a trainer makes the repository.

    Raises:
        ValueError: `hub_strategy` would upload optimizer states, or adapters without their base.
    """
    if not args.push_to_hub or args.hub_strategy == HubStrategy.END:
        return
    if args.hub_strategy != HubStrategy.EVERY_SAVE:
        raise ValueError(
            f"hub_strategy {args.hub_strategy.value} would upload optimizer and teacher; choose every_save or end."
        )
    if has_adapters(model):
        raise ValueError("Adapters are merged when a run ends: use hub_strategy end with use_peft.")


class PushesCheckpoints:
    """Trainer whose pushes upload what `push_checkpoint` does, at the end or, with `hub_strategy="every_save"`, with
    each checkpoint while training goes on."""

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
            refuse_public(api, self.hub_model_id)

    def create_model_card(
        self, license: str | None = None, tags: str | list[str] | None = None, model_name: str | None = None, **kwargs
    ) -> None:
        """Writes the card of `output_dir` as `README.md` there.

        Args:
            license: of the weights; default `hub_license`.
            tags: besides the package's own.
            model_name: title, where no `hub_model_id` gives one.
            kwargs: what else `Trainer.create_model_card` takes; here it comes from the run.
        """
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            name = self.hub_model_id or self.args.hub_model_id or model_name or folder.name
            pictures = [picture for picture in PICTURES if (folder / picture).is_file()]
            card = model_card(folder, name, license or self.args.hub_license, pictures, tags=tags)
            card.save(folder / "README.md")

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        **kwargs,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Saves the model and pushes it with its card to `hub_model_id`; arguments as `Trainer.push_to_hub`, of those
        for the card as `create_model_card`.

        Returns:
            on the main process the commit, or with `blocking=False` its future.
        """
        if has_adapters(self.accelerator.unwrap_model(self.model)):
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
            self.args.output_dir,
            self.hub_model_id,
            private=private,
            token=token,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
            license=license or self.args.hub_license,
            tags=tags,
            run_as_future=not blocking,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        step = self.state.global_step
        try:
            upload = push_checkpoint(
                checkpoint_folder,
                self.hub_model_id,
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
        upload.add_done_callback(lambda done: _warn_if_failed(done, step))
        if busy:
            self.push_in_progress.jobs.append(upload)
        else:
            self.push_in_progress = PushInProgress([upload])


def _warn_if_failed(upload: Future, step: int) -> None:
    if upload.exception() is not None:
        logger.warning(f"Step {step} was not pushed, training goes on: {upload.exception()}")


__all__ = ["PushesCheckpoints", "refuse_unfit_pushes"]
