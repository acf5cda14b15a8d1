"""Model and dataset cards, rendered from what a run left. A number that the run did not produce is never printed."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

# Beside the package in its source, inside it once installed.
TEMPLATES = (Path(__file__).parents[1] / "hub_cards", Path(__file__).parent / "hub_cards")
METRICS = {"rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mAP": "mAP", "mINP": "mINP"}
NOT_MEASURED = "not measured"
CITATIONS = {
    "amns": (
        "@article{zhang2024amns,\n  title={AMNS: Attention-Weighted Selective Mask and Noise Label Suppression for "
        "Text-to-Image Person Retrieval},\n  author={Zhang, Runqing and Zhou, Xue},\n"
        "  journal={arXiv preprint arXiv:2409.06385},\n  year={2024}\n}"
    ),
    "sdm": "@misc{irra2023, title={IRRA (SDM loss), CVPR 2023}, howpublished={arXiv:2303.12501}}",
    "tal": "@misc{rde2024, title={RDE (TAL loss), CVPR 2024}, howpublished={github.com/QinYang79/RDE}}",
    "itc": "@misc{clip2021, title={CLIP (InfoNCE loss)}, howpublished={arXiv:2103.00020}}",
    "identity": "@misc{zheng2017dual, title={Dual-path identity loss}, howpublished={arXiv:1711.05535}}",
}
# Losses that build on a peer's.
_CITED_BY = {"bsdm": "sdm", "inverse_sdm": "sdm"}


def read_run(folder: str | Path) -> dict[str, Any]:
    """`results.json` of an output folder of `scripts/train.py`; empty if there is none."""
    file = Path(folder) / "results.json"
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); remove it or write it anew by training.") from error


def template(name: str) -> Path:
    """The file of a card's template."""
    for folder in TEMPLATES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"There is no card template {name}; looked in {', '.join(map(str, TEMPLATES))}.")


def model_card(folder: str | Path, repo_id: str, license: str = "apache-2.0", pictures: list[str] = ()) -> ModelCard:
    """The card of a checkpoint.

    Args:
        folder: output folder of a run, with `results.json` if figures shall stand in the card.
        repo_id: `ORG/NAME` that it is pushed to.
        license: Hub's name of the weights' licence.
        pictures: names of image files that lie beside the card.
    """
    run = read_run(folder)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        license=license,
        language="en",
        tags=["person-retrieval", "text-to-image-retrieval", "amns"],
        metrics=list(METRICS) if run else None,
        base_model=run.get("base_model"),
        model_name=repo_id.split("/")[-1] if run else None,
        eval_results=_eval_results(run) if run else None,
    )
    losses = run.get("losses", {})
    cited = ["amns", *sorted({_CITED_BY.get(name, name) for name in losses} & CITATIONS.keys())]
    return ModelCard.from_template(
        data,
        template_path=str(template("model_card.md")),
        title=repo_id.split("/")[-1],
        repo_id=repo_id,
        package_url="https://arxiv.org/abs/2409.06385",
        figures=_figures(run),
        data=_data(run),
        training=_list(run.get("training"), losses=losses or None),
        environment=_list(run.get("environment")),
        pictures=list(pictures),
        synthetic=run.get("benchmark", "").startswith("synthetic"),
        license_text=f"Weights: {license}. Benchmarks and pretrained starts have licences of their own.",
        citations="\n\n".join(CITATIONS[name] for name in cited),
    )


def _eval_results(run: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-to-image-retrieval",
            task_name="Text-to-image person retrieval",
            dataset_type=run["benchmark"],
            dataset_name=run["benchmark"],
            dataset_split="test",
            dataset_args={"noise_rate": run["noise_rate"]},
            metric_type=name,
            metric_name=label,
            metric_value=run["best"][name],
        )
        for name, label in METRICS.items()
    ]


def _figures(run: dict[str, Any]) -> str:
    if not run:
        return f"Retrieval figures: {NOT_MEASURED}."
    head = f"| {run['benchmark']}, test, percent | " + " | ".join(METRICS.values()) + " |"
    lines = [head, "| --- " + "| ---: " * len(METRICS) + "|"]
    for name in ("best", "last"):
        figures = run[name]
        cells = " | ".join(f"{figures[metric]:.2f}" for metric in METRICS)
        lines.append(f"| {name}, epoch {figures['epoch']:g} | {cells} |")
    lines.append("")
    lines.append(f"The best epoch was selected on {run['selected_on']}; the weights here are those of the best epoch.")
    return "\n".join(lines)


def _data(run: dict[str, Any]) -> str:
    if not run:
        return f"Training data: {NOT_MEASURED}."
    dropped = ", ".join(f"{split} {count}" for split, count in run["dropped_pairs"].items() if count)
    return (
        f"Trained on {run['benchmark']}; {run['noise_rate']:.1%} of the training captions were shuffled on purpose."
        + (f" The benchmark was incomplete, pairs without an image: {dropped}." if dropped else "")
    )


def _list(values: dict[str, Any] | None, **more: Any) -> str:
    values = {**(values or {}), **{name: value for name, value in more.items() if value is not None}}
    if not values:
        return f"{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}."
    return "\n".join(f"- {name}: `{json.dumps(value)}`" for name, value in values.items())


__all__ = ["METRICS", "TEMPLATES", "model_card", "read_run", "template"]
