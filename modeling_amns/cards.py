"""Model and dataset cards, rendered from what a run left. A number that the run did not produce is never printed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .brief import in_short
from .configuration_amns import AMNSConfig
from .data.benchmarks import BENCHMARKS, known_benchmark
from .data.records import counts_table
from .markdown import code, markdown_table, plain
from .report import (
    FROM_SCRATCH,
    METRICS,
    NOT_MEASURED,
    NOT_STATED,
    RESULTS,
    RunReport,
    figures_table,
    find_report,
    format_number,
    is_number,
    read_history,
    weights_sha256,
)

# Beside the package in its source, inside it once installed.
TEMPLATES = (Path(__file__).parents[1] / "hub_cards", Path(__file__).parent / "hub_cards")
# What the pictures show that a run and `scripts/evaluate.py --figures` leave.
PICTURES = {
    "curves.png": "The run: retrieval figures of the split that selects the epoch, and the parts of the loss as they "
    "are before weights.",
    "ranking.png": "Captions of the test split, taken at even distances, and the images that the model ranks first "
    "for each. Green: the person meant. Red: somebody else.",
    "mask.png": "Images of the test split, taken at even distances, and what AWM would leave of each for the student.",
    "pairs.png": "Training pairs by the moving average of their loss at the end of the run. Green: plausible. Red: "
    "doubtful. Black line: the pairs that are known to be wrong, where that is known.",
    "masks.png": "Captions and images of the test split, taken at even distances, and what each mask score of AWM "
    "would keep of each image, with this model as the teacher. Grey: dropped.",
    "attention.png": "Captions and images of the test split, taken at even distances, and each patch's score: the "
    "attention that CLS pays it, over all layers and in the last, and its similarity to the caption. Light: high.",
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
    "gce": """
@inproceedings{zhang2018gce,
  title={Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels},
  author={Zhang, Zhilu and Sabuncu, Mert R.},
  booktitle={Advances in Neural Information Processing Systems (NeurIPS)},
  note={arXiv:1805.07836: the GCE loss},
  year={2018}
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


def template(name: str) -> Path:
    """The file of a card's template."""
    for folder in TEMPLATES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"There is no card template {name}; looked in {', '.join(map(str, TEMPLATES))}.")


def dataset_card(name: str, counts: str = "") -> DatasetCard:
    """The card of a benchmark; the three real ones describe, and never hold, what their authors hand out.

    Args:
        name: `cuhk-pedes`, `icfg-pedes`, `rstpreid`, `ufine6926`, `ufine3c` or `synthetic-pedes`.
        counts: a table of what there is; default the published sizes, where there are any.

    Example:

        >>> print(dataset_card("cuhk-pedes").text.split("## Counts")[1].splitlines()[4])
        | train | 11,003 | 34,054 | 68,126 |
    """
    published = known_benchmark(name).counts
    table = counts or (counts_table(published) if published else f"Counts: {NOT_MEASURED}.")
    text = template(f"{name}.md").read_text(encoding="utf-8")
    return DatasetCard(text.replace("{counts}", table))


def model_card(
    folder: str | Path,
    repo_id: str,
    license: str | None = None,
    pictures: Sequence[str] = (),
    license_name: str | None = None,
    license_link: str | None = None,
    tags: str | Sequence[str] | None = None,
    report: RunReport | None = None,
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
        report: of the run, where the caller has read it; default the one in the folder, if it is of its weights.
    Raises:
        ValueError: a file of the run is no JSON object, or not what it should be.
    """
    run = report or find_report(folder)
    # The evaluations beside figures that are of other weights may be of those too.
    course = _course(folder) if run or not (Path(folder) / RESULTS).is_file() else ""
    known, run = run is not None, run or RunReport()
    name = repo_id.split("/")[-1]
    results = _eval_results(run)
    if license is None and run.synthetic and run.start == FROM_SCRATCH:
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
        base_model=run.base_model if run.base_model and _is_hub_id(run.base_model) else None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(template("model_card.md")),
        title=name,
        repo_id=repo_id,
        model=_list(_model(folder)),
        figures=_figures(run) if known else f"Retrieval figures on a test split: {NOT_MEASURED}.",
        course=course,
        data=_data(run),
        start=plain(run.start or NOT_STATED),
        training=_list(run.training | ({"losses": run.losses} if run.losses else {})),
        environment=_list(run.environment),
        pictures=[(picture, PICTURES.get(picture, picture)) for picture in pictures if known],
        synthetic=run.synthetic,
        waf="waf" in run.losses,
        license=license_name or license or NOT_STATED,
        citations="\n\n".join(citation.strip() for citation in CITATIONS.values()),
    )


def _model(folder: str | Path) -> dict[str, object]:
    if not (Path(folder) / "config.json").is_file():
        return {}
    try:
        config = AMNSConfig.from_pretrained(folder)
    # Whatever transformers raises of fields that are not what they should be.
    except Exception as error:
        reason = in_short(error, 200)
        raise ValueError(f"{Path(folder) / 'config.json'} is no configuration of this package: {reason}") from error
    vision, text = config.vision_config, config.text_config
    return {
        "image size (height, width)": vision.image_size,
        "patch size, stride": [vision.patch_size, vision.stride or vision.patch_size],
        "image encoder (layers, width)": [vision.num_hidden_layers, vision.hidden_size],
        "text encoder (layers, width)": [text.num_hidden_layers, text.hidden_size],
        "vocabulary": text.vocab_size,
        "embedding": config.projection_dim,
    }


def _eval_results(run: RunReport) -> list[EvalResult]:
    if not run.measured_on:
        return []
    noise = run.noise_rate
    each = {run.measured_on: run.figures}
    if run.by_benchmark:
        # Not their means: no leaderboard has them.
        best = {name: rows["best"] for name, rows in run.by_benchmark.items() if "best" in rows}
        each = {name: {key: row[key] for key in METRICS if key in row} for name, row in best.items()}
    return [
        EvalResult(
            task_type="text-to-image-retrieval",
            task_name="Text-to-image person retrieval",
            dataset_type=benchmark,
            dataset_name=benchmark,
            # What tells two runs on one data set apart: entries of equal config would be merged into one.
            dataset_config=None if noise is None else f"noise_rate={noise:g}",
            dataset_split="test",
            dataset_args=None if noise is None else {"noise_rate": noise},
            metric_type=name,
            metric_name=METRICS[name],
            metric_value=value,
        )
        for benchmark, figures in each.items()
        for name, value in figures.items()
    ]


def _figures(run: RunReport) -> str:
    table = figures_table(run.rows, f"{plain(run.measured_on or 'unnamed data')}, test, percent")
    weights = "The weights here are those of the last epoch; no other was selected."
    if run.selected_on:
        weights = f"The weights here are those of the best epoch. It was selected on {plain(run.selected_on)}."
    return f"{table}\n\n{weights}"


def _dataset_ids(run: RunReport) -> list[str] | None:
    """Ids of data sets as the Hub knows them; a file of own pairs has none."""
    if run.benchmark is None:
        return None
    if run.own_pairs:
        return [run.benchmark] if _is_hub_id(run.benchmark) else None
    return [name for name in run.benchmark.split(" + ") if name in BENCHMARKS] or None


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _course(folder: str | Path) -> str:
    """The evaluations while training, from `trainer_state.json`; empty without one."""
    rows = [
        [format_number(entry.get("epoch"), ".4g"), format_number(entry.get("step"), ".0f")]
        + [format_number(entry.get(f"eval_{name}"), ".2f") for name in METRICS]
        for entry in read_history(folder)
        if any(is_number(entry.get(f"eval_{name}")) for name in METRICS)
    ]
    return markdown_table(["epoch", "step", *METRICS.values()], rows, texts=0) if rows else ""


def _data(run: RunReport) -> str:
    if not run.benchmark:
        return f"Training data: {NOT_MEASURED}."
    dropped = ", ".join(f"{plain(split)} {count}" for split, count in run.dropped_pairs.items() if count)
    shuffled = format_number(run.noise_rate, ".1%")
    if run.noise_file:
        shuffled += f" (index file {plain(run.noise_file)})"
    elif run.noise_rate and run.noise_seed is not None:
        shuffled += f" (seed {run.noise_seed})"
    return (
        f"Trained on {plain(run.benchmark)}; share of the training captions that were shuffled on purpose: {shuffled}."
        + (
            f" Training pairs that the run itself found doubtful, by their losses: {run.doubtful_share:.1%}."
            if is_number(run.doubtful_share)
            else ""
        )
        + (f" The benchmark was incomplete, pairs without an image: {dropped}." if dropped else "")
    )


def _list(values: Mapping[str, object]) -> str:
    if not values:
        return f"{NOT_MEASURED.capitalize()}."
    return "\n".join(f"- {plain(name)}: {code(json.dumps(value))}" for name, value in values.items())


__all__ = [
    "FROM_SCRATCH",
    "METRICS",
    "PICTURES",
    "RESULTS",
    "TEMPLATES",
    "dataset_card",
    "model_card",
    "template",
    "weights_sha256",
]
