"""Pushes checkpoints, the demo page, the metric and the synthetic benchmark to the Hub: what others need, no more."""

import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict
from huggingface_hub import CommitInfo, DatasetCard, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .cards import PICTURES, dataset_card, model_card
from .data.benchmarks import known_benchmark, load_benchmark
from .disk import names_full_disk
from .loading import load_checkpoint
from .markdown import markdown_table
from .report import find_report
from .repository import LEFTOVERS, client, make_repository, push_model, refuse_public
from .spaces import PARTS as SPACE_PARTS
from .spaces import stage_space

# Without its tokenizer's file a processor would still load, with an empty vocabulary.
PARTS = ("config.json", "processor_config.json", "tokenizer.json")


def stage_checkpoint(
    checkpoint: str | Path,
    repo_id: str,
    folder: str | Path,
    license: str | None = None,
    pictures: bool | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    tags: str | Sequence[str] | None = None,
) -> None:
    """Writes what is pushed of a checkpoint: weights, configuration, code, processor, card, figures.

    The dual encoder alone: the classifier over training identities is of no use to others. Optimizer, teacher, random
    states, training arguments and paths stay behind, because nothing is copied that is not named here.

    Args:
        checkpoint: output folder of a run, or a checkpoint in it.
        repo_id: `ORG/NAME`, for the card.
        folder: an empty folder.
        license: of the weights; default as `model_card`.
        pictures: whether the run's pictures go with it, which show images of the benchmark; default only those of the
            synthetic one, because the others may not be handed on.
        license_name, license_link, tags: as for `model_card`.
    Raises:
        FileNotFoundError: the checkpoint or a part of it is missing.
        ValueError: the id is not `ORG/NAME`, weights are not all there, or a part or a report can't be read.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    check_pushable(checkpoint, repo_id)
    model, processor = load_checkpoint(checkpoint)
    report, shown = find_report(checkpoint), []
    # Figures and pictures that belong to other weights, or whose run is not known, stay behind.
    if report is not None and (pictures or (pictures is None and report.synthetic)):
        shown = [name for name in PICTURES if (checkpoint / name).is_file()]
    card = model_card(checkpoint, repo_id, license, shown, license_name, license_link, tags, report=report)
    with names_full_disk(folder):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if report is not None:
            report.save(folder)
        for name in shown:
            shutil.copy(checkpoint / name, folder / name)
        card.save(folder / "README.md")


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
    license: str | None = None,
    pictures: bool | None = None,
    run_as_future: bool = False,
    license_name: str | None = None,
    license_link: str | None = None,
    tags: str | Sequence[str] | None = None,
) -> CommitInfo | Future[CommitInfo]:
    """Creates the repository if need be and uploads a checkpoint; files that did not change stay as they are.

    Args:
        checkpoint, repo_id, license, pictures, license_name, license_link, tags: as for `stage_checkpoint`.
        private: of a new repository; True refuses one that is public.
        token: default the one of `hf auth login` or HF_TOKEN.
        revision: branch, made if there is none.
        commit_message: title of the commit.
        run_as_future: returns once a copy is made; the upload goes on beside.
    Raises:
        FileNotFoundError, ValueError: as `stage_checkpoint`, or the repository is public and should not be.
        huggingface_hub.errors.LocalTokenNotFoundError: there is no token.
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses, e.g. 401 for a token that is not valid.
    """
    check_pushable(checkpoint, repo_id)
    api = client(token)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stage_checkpoint(checkpoint, repo_id, folder, license, pictures, license_name, license_link, tags)
        make_repository(api, repo_id, private, revision)
        upload = partial(
            api.upload_folder,
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            delete_patterns=list(LEFTOVERS),
        )
        if not run_as_future:
            return upload()
        future: Future[CommitInfo] = api.run_as_future(upload)
        # The copy goes when the upload has ended, not when this function returns.
        staged = stack.pop_all()
        future.add_done_callback(lambda _: staged.close())
        return future


def push_metric(repo_id: str, private: bool | None = None, token: str | None = None) -> CommitInfo:
    """Uploads the metric `person_retrieval` as a Space, the form in which `evaluate.load("ORG/NAME")` takes modules.

    Args:
        repo_id: `ORG/person_retrieval`.
        private: of a new Space; True refuses one that is public.
        token: default the one of `hf auth login` or HF_TOKEN.
    Raises:
        ValueError: the id is another, as `evaluate` looks for a module of the repository's name; or the Space is
            public and should not be.
    """
    _check_repo_id(repo_id)
    folder = Path(__file__).parent / "metrics" / "person_retrieval"
    if repo_id.split("/")[1] != folder.name:
        raise ValueError(f"evaluate loads the module that has the Space's name: push to ORG/{folder.name}.")
    api = client(token)
    api.create_repo(repo_id, repo_type="space", space_sdk="static", private=private, exist_ok=True)
    if private:
        refuse_public(api, repo_id, "space")
    return api.upload_folder(
        repo_id=repo_id, folder_path=folder, repo_type="space", ignore_patterns=["__pycache__/*", "*.pyc"]
    )


def push_space(
    images: str | Path,
    repo_id: str,
    model: str | Path | None = None,
    gallery: str | Path | None = None,
    private: bool = True,
    token: str | None = None,
    title: str = "Find a person",
) -> CommitInfo:
    """Uploads the demo page with a gallery, its images and its model as a Space.

    Args:
        images, model, gallery, title: as for `stage_space`.
        repo_id: `ORG/NAME`.
        private: of a new Space; True, the default as the images show persons, refuses one that is public.
        token: default the one of `hf auth login` or HF_TOKEN.
    Raises:
        FileNotFoundError, ValueError: as `stage_space`, the id is not `ORG/NAME`, or the Space is public and should
            not be.
    """
    _check_repo_id(repo_id)
    api = client(token)
    with tempfile.TemporaryDirectory() as folder:
        stage_space(images, folder, model, gallery, title)
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        if private:
            refuse_public(api, repo_id, "space")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type="space",
            commit_message="Upload demo page",
            delete_patterns=[f"{part}/*" for part in SPACE_PARTS],
        )


def push_synthetic(
    root: str | Path,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
) -> CommitInfo:
    """Uploads a synthetic benchmark as a data set of pairs, images inside, with its card.

    Args:
        root: folder that `make_synthetic_benchmark` wrote into.
        repo_id: `ORG/NAME`.
        private: of a new repository; True refuses one that is public.
        token: default the one of `hf auth login` or HF_TOKEN.
        revision: branch, made if there is none.
    Returns:
        the last commit, that of the card.
    Raises:
        FileNotFoundError: there is no synthetic benchmark. The real ones cannot be pushed: they are licensed.
        ValueError: the id is not `ORG/NAME`, or the repository is public and should not be.
    """
    _check_repo_id(repo_id)
    api = client(token)
    # Tables go through the cache of `datasets`, what is sent through it or the folder for temporary files.
    with names_full_disk(datasets.config.HF_DATASETS_CACHE):
        splits = {"train": load_benchmark("synthetic-pedes", root, "train")}
        for split in ("val", "test"):
            pairs = _as_pairs(load_benchmark("synthetic-pedes", root, split))
            splits[split] = pairs.select_columns(splits["train"].column_names)
        make_repository(api, repo_id, private, revision, repo_type="dataset")
        DatasetDict(splits).push_to_hub(repo_id, token=token, revision=revision)
    rows = [
        [split, *(f"{n:,}" for n in (len(pairs), len(set(pairs["image_id"][:])), len(set(pairs["person_id"][:]))))]
        for split, pairs in splits.items()
    ]
    card = dataset_card("synthetic-pedes", markdown_table(["split", "pairs", "images", "persons"], rows))
    # `push_to_hub` of datasets wrote configurations and features into the card; they are kept.
    written = DatasetCard.load(api.hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision))
    for name in ("dataset_info", "configs"):
        card.data[name] = written.data.get(name)
    return _upload_card(api, card, repo_id, revision)


def push_dataset_card(
    name: str,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
) -> CommitInfo:
    """Uploads the card of a real benchmark, which says what it is and where to ask for it; no image, no caption.

    Args:
        name: `cuhk-pedes`, `icfg-pedes`, `rstpreid`, `ufine6926` or `ufine3c`.
        repo_id, private, token, revision: as for `push_synthetic`.
    Raises:
        ValueError: there is no such benchmark, the id is not `ORG/NAME`, or the repository is public and should not
            be. The card of synthetic-pedes goes with its data: `push_synthetic`.
    """
    if known_benchmark(name).mark:
        raise ValueError(f"The card of {name} says what was made: push_synthetic pushes both.")
    _check_repo_id(repo_id)
    api = client(token)
    make_repository(api, repo_id, private, revision, repo_type="dataset")
    return _upload_card(api, dataset_card(name), repo_id, revision)


def _upload_card(api: HfApi, card: DatasetCard, repo_id: str, revision: str | None) -> CommitInfo:
    return api.upload_file(
        path_or_fileobj=str(card).encode(),
        path_in_repo="README.md",
        repo_id=repo_id,
        repo_type="dataset",
        revision=revision,
        commit_message="Upload dataset card",
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


__all__ = [
    "check_pushable",
    "client",
    "push_checkpoint",
    "push_dataset_card",
    "push_metric",
    "push_model",
    "push_space",
    "push_synthetic",
    "refuse_public",
    "stage_checkpoint",
    "stage_space",
]
