"""Pushes checkpoints, the metric and the synthetic benchmark to the Hub: what others need, and nothing else."""

import shutil
import tempfile
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

from datasets import Dataset, DatasetDict
from huggingface_hub import CommitInfo, DatasetCard, HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from transformers.trainer_utils import HubStrategy
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging
from transformers.utils.hub import PushInProgress

from .cards import PICTURES, dataset_card, model_card, read_run
from .data.benchmarks import load_benchmark
from .modeling_amns import AMNSModel
from .processing_amns import AMNSProcessor

logger = logging.get_logger(__name__)

RESULTS = "results.json"
# Without its tokenizer's file a processor would still load, with an empty vocabulary.
PARTS = ("config.json", "processor_config.json", "tokenizer.json")


def stage_checkpoint(
    checkpoint: str | Path,
    repo_id: str,
    folder: str | Path,
    license: str = "apache-2.0",
    pictures: bool | None = None,
) -> None:
    """Writes what is pushed of a checkpoint: weights, configuration, code, processor, card, figures.

    The dual encoder alone: the classifier over training identities is of no use to others. Optimizer, teacher, random
    states, training arguments and paths stay behind, because nothing is copied that is not named here.

    Args:
        checkpoint: output folder of a run, or a checkpoint in it.
        repo_id: `ORG/NAME`, for the card.
        folder: an empty folder.
        license: of the weights.
        pictures: whether the run's pictures go with it, which show images of the benchmark; default only those of a
            synthetic one, because the others may not be handed on.
    Raises:
        FileNotFoundError: the checkpoint or a part of it is missing.
        ValueError: the id is not `ORG/NAME`, the weights are cut off or not all there, or a report can't be read.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    check_pushable(checkpoint, repo_id)
    try:
        model, found = AMNSModel.from_pretrained(checkpoint, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"{checkpoint}: the weights can't be read ({error}); were they copied in full?") from error
    if found["missing_keys"]:
        names = sorted(found["missing_keys"])
        raise ValueError(
            f"{checkpoint}: {len(names)} weights are missing, {names[0]} first; they would be pushed at random. "
            "Push a checkpoint that was written as a whole."
        )
    model.save_pretrained(folder)
    AMNSProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    run = read_run(checkpoint)
    # Figures and pictures that belong to other weights stay behind.
    reports = [RESULTS] if run else []
    if pictures or (pictures is None and run.get("benchmark", "").startswith("synthetic")):
        reports += [name for name in PICTURES if (checkpoint / name).is_file()]
    for name in reports:
        shutil.copy(checkpoint / name, folder / name)
    model_card(checkpoint, repo_id, license, [name for name in PICTURES if name in reports]).save(folder / "README.md")


def check_pushable(checkpoint: str | Path, repo_id: str) -> None:
    """Errors of `stage_checkpoint` that need no look into the files."""
    checkpoint = Path(checkpoint)
    _check_repo_id(repo_id)
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"There is no folder {checkpoint}. Pass the output_dir of a training run.")
    missing = [name for name in PARTS if not (checkpoint / name).is_file()]
    if not any((checkpoint / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        missing.append(SAFE_WEIGHTS_NAME)
    if missing:
        raise FileNotFoundError(
            f"{checkpoint} lacks {', '.join(missing)}. Pass the output_dir of a training run that has ended."
        )


def push_checkpoint(
    checkpoint: str | Path,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload AMNS checkpoint",
    license: str = "apache-2.0",
    pictures: bool | None = None,
    run_as_future: bool = False,
) -> CommitInfo | Future[CommitInfo]:
    """Creates the repository if need be and uploads a checkpoint; files that did not change stay as they are.

    Args:
        checkpoint, repo_id, license, pictures: as for `stage_checkpoint`.
        private: of a new repository.
        token: default the one of `hf auth login` or HF_TOKEN.
        revision: branch, made if there is none.
        commit_message: title of the commit.
        run_as_future: returns once a copy is made; the upload goes on beside.
    Raises:
        FileNotFoundError, ValueError: as `stage_checkpoint`.
        huggingface_hub.errors.LocalTokenNotFoundError: there is no token.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses, e.g. 401 for a token that is not valid.
    """
    check_pushable(checkpoint, repo_id)
    api = _api(token)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stage_checkpoint(checkpoint, repo_id, folder, license, pictures)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        upload = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            # Of an earlier push, which this one has none of.
            delete_patterns=[RESULTS, *PICTURES],
            run_as_future=run_as_future,
        )
        if run_as_future:
            # The copy goes when the upload has ended, not when this function returns.
            staged = stack.pop_all()
            upload.add_done_callback(lambda _: staged.close())
        return upload


def push_metric(repo_id: str, token: str | None = None) -> CommitInfo:
    """Uploads the metric `person_retrieval` as a Space, the form in which `evaluate.load("ORG/NAME")` takes modules.

    Raises:
        ValueError: the id is not `ORG/person_retrieval`; `evaluate` looks for a module of the repository's name.
    """
    _check_repo_id(repo_id)
    folder = Path(__file__).parent / "metrics" / "person_retrieval"
    if repo_id.split("/")[1] != folder.name:
        raise ValueError(f"evaluate loads the module that has the Space's name: push to ORG/{folder.name}.")
    api = _api(token)
    api.create_repo(repo_id, repo_type="space", space_sdk="static", exist_ok=True)
    return api.upload_folder(
        repo_id=repo_id, folder_path=folder, repo_type="space", ignore_patterns=["__pycache__/*", "*.pyc"]
    )


def push_synthetic(root: str | Path, repo_id: str, private: bool | None = None, token: str | None = None) -> None:
    """Uploads a synthetic benchmark as a data set of pairs, images inside, with its card.

    Args:
        root: folder that `make_synthetic_benchmark` wrote into.
        repo_id: `ORG/NAME`.
    Raises:
        FileNotFoundError: there is no synthetic benchmark. The real ones cannot be pushed: they are licensed.
    """
    _check_repo_id(repo_id)
    api = _api(token)
    splits = {"train": load_benchmark("synthetic-pedes", root, "train")}
    for split in ("val", "test"):
        pairs = _as_pairs(load_benchmark("synthetic-pedes", root, split))
        splits[split] = pairs.select_columns(splits["train"].column_names)
    DatasetDict(splits).push_to_hub(repo_id, private=private, token=token)
    lines = ["| split | pairs | images | persons |", "| --- | ---: | ---: | ---: |"]
    for split, pairs in splits.items():
        counts = len(pairs), len(set(pairs["image_id"][:])), len(set(pairs["person_id"][:]))
        lines.append(f"| {split} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    card = dataset_card("synthetic-pedes", "\n".join(lines))
    # `push_to_hub` of datasets wrote configurations and features into the card; they are kept.
    written = DatasetCard.load(repo_id, token=token)
    for name in ("dataset_info", "configs"):
        card.data[name] = written.data.get(name)
    api.upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=repo_id, repo_type="dataset")


class PushesCheckpoints:
    """Trainer whose pushes upload what `push_checkpoint` does, at the end or, with `hub_strategy="every_save"`, with
    each checkpoint while training goes on."""

    def refuse_unfit_pushes(self) -> None:
        """Called once the trainer stands.

        Raises:
            ValueError: `hub_strategy` would upload optimizer states, or adapters without their base.
        """
        strategy = self.args.hub_strategy
        if not self.args.push_to_hub or strategy == HubStrategy.END:
            return
        if strategy != HubStrategy.EVERY_SAVE:
            raise ValueError(
                f"hub_strategy {strategy.value} would upload optimizer and teacher; choose every_save or end."
            )
        if hasattr(self.model, "merge_and_unload"):
            raise ValueError("Adapters are merged when a run ends: use hub_strategy end with use_peft.")

    def create_model_card(self, license: str = "apache-2.0", model_name: str | None = None) -> None:
        """Writes the card of `output_dir` as `README.md` there; everything else in it comes from the run."""
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            name = self.hub_model_id or self.args.hub_model_id or model_name or folder.name
            pictures = [picture for picture in PICTURES if (folder / picture).is_file()]
            model_card(folder, name, license, pictures).save(folder / "README.md")

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        license: str = "apache-2.0",
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Saves the model and pushes it with its card to `hub_model_id`; arguments as `Trainer.push_to_hub`, without
        those of the card, which is rendered from the run.

        Returns:
            on the main process the commit, or with `blocking=False` its future.
        """
        if hasattr(self.accelerator.unwrap_model(self.model), "merge_and_unload"):
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
            private,
            token,
            revision or self.args.hub_revision,
            commit_message,
            license,
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


def _api(token: str | None) -> HfApi:
    """The client; asked for before any work, so that a missing token is an error of the first second."""
    if not (token or get_token()):
        raise LocalTokenNotFoundError(
            "There is no Hugging Face token. Run `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    return HfApi(token=token)


def _as_pairs(split: DatasetDict) -> Dataset:
    """Gallery and queries back as (image, caption) pairs."""
    gallery, queries = split["gallery"], split["queries"]
    place = {image_id: row for row, image_id in enumerate(gallery["image_id"][:])}
    pairs = gallery.select([place[image_id] for image_id in queries["image_id"][:]])
    return pairs.add_column("caption", queries["caption"][:])


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no id of the Hub, which are like ORG/NAME: {error}") from error
    if repo_id.count("/") != 1:
        raise ValueError(f"{repo_id!r} is no id of the form ORG/NAME.")


__all__ = [
    "PushesCheckpoints",
    "check_pushable",
    "push_checkpoint",
    "push_metric",
    "push_synthetic",
    "stage_checkpoint",
]
