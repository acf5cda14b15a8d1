"""Model and dataset cards, rendered from what a run left. A number that the run did not produce is never printed."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData
from transformers.utils import logging

from .configuration_amns import AMNSConfig
from .data.benchmarks import BENCHMARKS

logger = logging.get_logger(__name__)

# Beside the package in its source, inside it once installed.
TEMPLATES = (Path(__file__).parents[1] / "hub_cards", Path(__file__).parent / "hub_cards")
METRICS = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
NOT_MEASURED, NOT_STATED = "not measured", "not stated"
FROM_SCRATCH = "from scratch"
RESULTS = "results.json"
# What the pictures of a run show.
PICTURES = {
    "ranking.png": "Captions of the test split, taken at even distances, and the images that the model ranks first "
    "for each. Green: the person meant. Red: somebody else.",
    "mask.png": "Images of the test split, taken at even distances, and what AWM would leave of each for the student.",
}
# The paper, and the peers whose losses are offered.
CITATIONS = {
    "amns": """
@article{zhang2024amns,
  title={AMNS: Attention-Weighted Selective Mask and Noise Label Suppression for Text-to-Image Person Retrieval},
  author={Zhang, Runqing and Zhou, Xue},
  journal={arXiv preprint arXiv:2409.06385},
  year={2024}
}
""",
    "sdm": """
@inproceedings{jiang2023irra,
  title={Cross-Modal Implicit Relation Reasoning and Aligning for Text-to-Image Person Retrieval},
  author={Jiang, Ding and Ye, Mang},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  note={IRRA, arXiv:2303.12501: the SDM loss},
  year={2023}
}
""",
    "tal": """
@inproceedings{qin2024rde,
  title={Noisy-Correspondence Learning for Text-to-Image Person Re-identification},
  author={Qin, Yang and Chen, Yingke and Peng, Dezhong and Peng, Xi and Zhou, Joey Tianyi and Hu, Peng},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  note={RDE: the TAL loss},
  year={2024}
}
""",
    "itc": """
@inproceedings{radford2021clip,
  title={Learning Transferable Visual Models From Natural Language Supervision},
  author={Radford, Alec and Kim, Jong Wook and Hallacy, Chris and others},
  booktitle={International Conference on Machine Learning (ICML)},
  note={CLIP, arXiv:2103.00020: the InfoNCE loss},
  year={2021}
}
""",
    "identity": """
@article{zheng2020dualpath,
  title={Dual-Path Convolutional Image-Text Embeddings with Instance Loss},
  author={Zheng, Zhedong and Zheng, Liang and Garrett, Michael and Yang, Yi and Xu, Mingliang and Shen, Yi-Dong},
  journal={ACM Transactions on Multimedia Computing, Communications, and Applications},
  note={arXiv:1711.05535: the identity loss},
  year={2020}
}
""",
}
FIELDS = {"benchmark": str, "losses": dict, "best": dict, "last": dict, "training": dict, "environment": dict}


def read_run(folder: str | Path) -> dict[str, Any]:
    """What an output folder of `scripts/train.py` says about its run.

    Returns:
        `results.json`, empty if there is none or if its `weights_sha256` is not that of the weights beside it: a run
        into the same folder has replaced them, and the figures are another model's.
    Raises:
        ValueError: the file is no JSON object.
    """
    file = Path(folder) / RESULTS
    run = _read_object(file)
    for name, kind in FIELDS.items():
        if not isinstance(run.get(name) or kind(), kind):
            raise ValueError(f"{file}: {name} must be a JSON {kind.__name__}, found {run[name]!r}; train anew.")
    wanted = run.get("weights_sha256")
    # Read through only if there is something to compare with: checkpoints are pushed while training waits.
    if wanted and weights_sha256(folder) not in (None, wanted):
        logger.warning_once(f"{file} describes other weights than those beside it; it is left out.")
        return {}
    return run


def weights_sha256(folder: str | Path) -> str | None:
    """Which weights a folder holds: the SHA-256 of its `model.safetensors`, or of all its shards in order."""
    files = sorted(Path(folder).glob("model*.safetensors"))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest() if files else None


def is_synthetic(run: Mapping[str, Any]) -> bool:
    """Whether a run was on the benchmark of this package, whose images show nobody."""
    return run.get("benchmark") == "synthetic-pedes" and not run.get("own_pairs")


def template(name: str) -> Path:
    """The file of a card's template."""
    for folder in TEMPLATES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"There is no card template {name}; looked in {', '.join(map(str, TEMPLATES))}.")


def dataset_card(name: str, counts: str = "") -> DatasetCard:
    """The card of a benchmark; the three real ones describe, and never hold, what their authors hand out.

    Args:
        name: `cuhk-pedes`, `icfg-pedes`, `rstpreid` or `synthetic-pedes`.
        counts: for synthetic-pedes, the table of what was generated.
    """
    text = template(f"{name}.md").read_text(encoding="utf-8")
    return DatasetCard(text.replace("{counts}", counts or f"Counts: {NOT_MEASURED}."))


def model_card(
    folder: str | Path,
    repo_id: str,
    license: str | None = None,
    pictures: Sequence[str] = (),
    license_name: str | None = None,
    license_link: str | None = None,
    tags: str | Sequence[str] | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        folder: output folder of a run, or a checkpoint in it: `config.json`, `results.json` (figures on test) and
            `trainer_state.json` (figures of each evaluation while training). What is missing reads "not measured".
        repo_id: `ORG/NAME` that it is pushed to.
        license: Hub's name of the weights' licence; default apache-2.0 for a run from scratch on the synthetic
            benchmark, else not stated, because start and data have licences of their own.
        pictures: names of image files that lie beside the card; of a run that is not known none is shown.
        license_name, license_link: of a licence that is `other`.
        tags: besides the package's own.
    Raises:
        ValueError: a file of the run is no JSON object, or not what it should be.
    """
    run = read_run(folder)
    # The evaluations beside figures that are of other weights may be of those too.
    known = bool(run) or not (Path(folder) / RESULTS).is_file()
    name = repo_id.split("/")[-1]
    results = _eval_results(run)
    if license is None and is_synthetic(run) and run.get("start") == FROM_SCRATCH:
        license = "apache-2.0"
    more_tags = [tags] if isinstance(tags, str) else list(tags or ())
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        license=license,
        license_name=license_name,
        license_link=license_link,
        language="en",
        tags=["person-retrieval", "text-to-image-retrieval", "amns", *more_tags],
        datasets=_dataset_ids(run),
        metrics=[result.metric_type for result in results] or None,
        base_model=run.get("base_model"),
        model_name=name if results else None,
        eval_results=results or None,
    )
    losses = run.get("losses") or {}
    return ModelCard.from_template(
        data,
        template_path=str(template("model_card.md")),
        title=name,
        repo_id=repo_id,
        model=_list(_model(folder)),
        figures=_figures(run),
        course=_course(folder) if known else "",
        data=_data(run),
        start=run.get("start") or NOT_STATED,
        training=_list(run.get("training"), losses=losses or None),
        environment=_list(run.get("environment")),
        pictures=[(picture, PICTURES.get(picture, picture)) for picture in pictures if run],
        synthetic=is_synthetic(run),
        waf="waf" in losses,
        license=license_name or license or NOT_STATED,
        citations="\n\n".join(citation.strip() for citation in CITATIONS.values()),
    )


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); remove it or write it anew by training.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object, found {type(content).__name__}; remove it or train anew.")
    return content


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _format(value: Any, pattern: str) -> str:
    return format(value, pattern) if _is_number(value) else NOT_MEASURED


def _model(folder: str | Path) -> dict[str, Any]:
    if not (Path(folder) / "config.json").is_file():
        return {}
    config = AMNSConfig.from_pretrained(folder)
    vision, text = config.vision_config, config.text_config
    return {
        "image size (height, width)": vision.image_size,
        "patch size, stride": [vision.patch_size, vision.stride or vision.patch_size],
        "image encoder (layers, width)": [vision.num_hidden_layers, vision.hidden_size],
        "text encoder (layers, width)": [text.num_hidden_layers, text.hidden_size],
        "vocabulary": text.vocab_size,
        "embedding": config.projection_dim,
    }


def _eval_results(run: dict[str, Any]) -> list[EvalResult]:
    best, noise = run.get("best") or {}, run.get("noise_rate")
    if not run.get("benchmark"):
        return []
    return [
        EvalResult(
            task_type="text-to-image-retrieval",
            task_name="Text-to-image person retrieval",
            dataset_type=run["benchmark"],
            dataset_name=run["benchmark"],
            # What tells two runs on one data set apart: entries of equal config would be merged into one.
            dataset_config=f"noise_rate={noise:g}" if _is_number(noise) else None,
            dataset_split="test",
            dataset_args={"noise_rate": noise} if _is_number(noise) else None,
            metric_type=name,
            metric_name=label,
            metric_value=best[name],
        )
        for name, label in METRICS.items()
        if _is_number(best.get(name))
    ]


def _figures(run: dict[str, Any]) -> str:
    if not run:
        return f"Retrieval figures on a test split: {NOT_MEASURED}."
    head = f"| {run.get('benchmark', 'unnamed data')}, test, percent | " + " | ".join(METRICS.values()) + " |"
    lines = [head, "| --- " + "| ---: " * len(METRICS) + "|"]
    for name in ("best", "last"):
        figures = run.get(name) or {}
        cells = " | ".join(_format(figures.get(metric), ".2f") for metric in METRICS)
        lines.append(f"| {name}, epoch {_format(figures.get('epoch'), 'g')} | {cells} |")
    weights = "The weights here are those of the last epoch; no other was selected."
    if run.get("selected_on"):
        weights = f"The weights here are those of the best epoch. It was selected on {run['selected_on']}."
    return "\n".join([*lines, "", weights])


def _dataset_ids(run: Mapping[str, Any]) -> list[str] | None:
    """Ids of data sets as the Hub knows them; a file of own pairs has none."""
    name = run.get("benchmark", "")
    known = "/" in name if run.get("own_pairs") else name in BENCHMARKS
    return [name] if known else None


def _course(folder: str | Path) -> str:
    """The evaluations while training, from `trainer_state.json`; empty without one."""
    history = _read_object(Path(folder) / "trainer_state.json").get("log_history") or []
    rows = [entry for entry in history if any(_is_number(entry.get(f"eval_{name}")) for name in METRICS)]
    if not rows:
        return ""
    lines = ["| epoch | step | " + " | ".join(METRICS.values()) + " |", "| ---: " * (len(METRICS) + 2) + "|"]
    for entry in rows:
        cells = [_format(entry.get("epoch"), ".4g"), _format(entry.get("step"), ".0f")]
        cells += [_format(entry.get(f"eval_{name}"), ".2f") for name in METRICS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _data(run: dict[str, Any]) -> str:
    if not run.get("benchmark"):
        return f"Training data: {NOT_MEASURED}."
    dropped = ", ".join(f"{split} {count}" for split, count in (run.get("dropped_pairs") or {}).items() if count)
    shuffled = _format(run.get("noise_rate"), ".1%")
    if run.get("noise_file"):
        shuffled += f" (index file {run['noise_file']})"
    elif run.get("noise_rate") and "noise_seed" in run:
        shuffled += f" (seed {run['noise_seed']})"
    return (
        f"Trained on {run['benchmark']}; share of the training captions that were shuffled on purpose: {shuffled}."
        + (f" The benchmark was incomplete, pairs without an image: {dropped}." if dropped else "")
    )


def _list(values: dict[str, Any] | None, **more: Any) -> str:
    values = {**(values or {}), **{name: value for name, value in more.items() if value is not None}}
    if not values:
        return f"{NOT_MEASURED.capitalize()}."
    return "\n".join(f"- {name}: `{json.dumps(value)}`" for name, value in values.items())


__all__ = [
    "FROM_SCRATCH",
    "METRICS",
    "PICTURES",
    "RESULTS",
    "TEMPLATES",
    "dataset_card",
    "is_synthetic",
    "model_card",
    "read_run",
    "template",
    "weights_sha256",
]
