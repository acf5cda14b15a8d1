"""Pushes checkpoints, the metric and the synthetic benchmark to the Hub: what others need, and nothing else."""

import shutil
import tempfile
from pathlib import Path

from datasets import Dataset, DatasetDict
from huggingface_hub import CommitInfo, DatasetCard, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.trainer_utils import HubStrategy

from .cards import model_card, template
from .data.benchmarks import load_benchmark
from .modeling_amns import AMNSModel
from .processing_amns import AMNSProcessor

PICTURES = ("*.png", "*.jpg", "*.svg")


def stage_checkpoint(checkpoint: str | Path, repo_id: str, folder: str | Path, license: str = "apache-2.0") -> None:
    """Writes what is pushed of a checkpoint: weights, configuration, code, processor, card, figures.

    The dual encoder alone: the classifier over training identities is of no use to others. Optimizer, teacher, random
    states, training arguments and paths stay behind, because nothing is copied that is not named here.

    Args:
        checkpoint: output folder of a run, or a checkpoint in it.
        repo_id: `ORG/NAME`, for the card.
        folder: an empty folder.
        license: of the weights.
    Raises:
        FileNotFoundError: the checkpoint or a part of it is missing.
        ValueError: the id is not `ORG/NAME`.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    _check_repo_id(repo_id)
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"There is no folder {checkpoint}. Pass the output_dir of a training run.")
    missing = [name for name in ("config.json", "processor_config.json") if not (checkpoint / name).is_file()]
    if missing or not list(checkpoint.glob("*.safetensors")):
        found = ", ".join(missing) or "*.safetensors"
        raise FileNotFoundError(f"{checkpoint} lacks {found}. Pass the output_dir of a training run that has ended.")
    AMNSModel.from_pretrained(checkpoint).save_pretrained(folder)
    AMNSProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    pictures = sorted({file for pattern in PICTURES for file in checkpoint.glob(pattern)})
    for file in [*pictures, checkpoint / "results.json"]:
        if file.is_file():
            shutil.copy(file, folder / file.name)
    model_card(checkpoint, repo_id, license, [file.name for file in pictures]).save(folder / "README.md")


def push_checkpoint(
    checkpoint: str | Path,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload AMNS checkpoint",
    license: str = "apache-2.0",
) -> CommitInfo:
    """Creates the repository if need be and uploads a checkpoint; files that did not change stay as they are.

    Args:
        checkpoint, repo_id, license: as for `stage_checkpoint`.
        private: of a new repository.
        token: default the one of `hf auth login` or HF_TOKEN.
        revision: branch.
        commit_message: title of the commit.
    Raises:
        FileNotFoundError, ValueError: as `stage_checkpoint`.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses, e.g. 401 without a valid token.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        stage_checkpoint(checkpoint, repo_id, folder, license)
        api.create_repo(repo_id, private=private, exist_ok=True)
        return api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message)


def push_metric(repo_id: str, token: str | None = None) -> CommitInfo:
    """Uploads the metric `person_retrieval` as a Space, the form in which `evaluate.load("ORG/NAME")` takes modules.

    Raises:
        ValueError: the id is not `ORG/person_retrieval`; `evaluate` looks for a module of the repository's name.
    """
    _check_repo_id(repo_id)
    folder = Path(__file__).parent / "metrics" / "person_retrieval"
    if repo_id.split("/")[1] != folder.name:
        raise ValueError(f"evaluate loads the module that has the Space's name: push to ORG/{folder.name}.")
    api = HfApi(token=token)
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
    splits = {"train": load_benchmark("synthetic-pedes", root, "train")}
    for split in ("val", "test"):
        splits[split] = _as_pairs(load_benchmark("synthetic-pedes", root, split))
    DatasetDict(splits).push_to_hub(repo_id, private=private, token=token)
    lines = ["| split | pairs | images | persons |", "| --- | ---: | ---: | ---: |"]
    for split, pairs in splits.items():
        counts = len(pairs), len(set(pairs["image_id"][:])), len(set(pairs["person_id"][:]))
        lines.append(f"| {split} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    text = template("synthetic-pedes.md").read_text(encoding="utf-8").replace("{counts}", "\n".join(lines))
    card, api = DatasetCard(text), HfApi(token=token)
    # `push_to_hub` of datasets wrote configurations and features into the card; they are kept.
    written = DatasetCard.load(repo_id, token=token)
    for name in ("dataset_info", "configs"):
        card.data[name] = written.data.get(name)
    api.upload_file(path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id=repo_id, repo_type="dataset")


class PushesCheckpoints:
    """Trainer whose pushes upload what `push_checkpoint` does, at the end or, with `hub_strategy="every_save"`, with
    each checkpoint; training waits for the upload."""

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

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo | None:
        """Saves the model and pushes it with its card to `hub_model_id`; arguments as `Trainer.push_to_hub`.

        Returns:
            the commit, on the main process; `blocking=False` is not offered.
        """
        if kwargs or not blocking:
            raise ValueError("push_to_hub renders its own card and waits for the upload; leave other arguments out.")
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        revision = revision or self.args.hub_revision
        return push_checkpoint(self.args.output_dir, self.hub_model_id, private, token, revision, commit_message)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        message = f"Training in progress, step {self.state.global_step}"
        push_checkpoint(
            checkpoint_folder, self.hub_model_id, None, self.args.hub_token, self.args.hub_revision, message
        )


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


__all__ = ["PushesCheckpoints", "push_checkpoint", "push_metric", "push_synthetic", "stage_checkpoint"]
