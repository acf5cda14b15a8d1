"""Rules of the Hub for the metadata of a card, as far as cards of this package can break them."""

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

# A part of the Hub's lists, as far as cards of this package use them.
LICENSES = {"apache-2.0", "mit", "other", "cc-by-4.0"}
TASKS = {"zero-shot-image-classification", "image-to-text", "image-feature-extraction"}


def card_errors(content: str, repo_type: str) -> list[str]:
    """Why the Hub would refuse a card: no YAML mapping in front, unknown licence or task, a broken model-index."""
    parts = content.split("---\n")
    if not content.startswith("---\n") or len(parts) < 3:
        return ["the card has no metadata block"]
    try:
        data = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        return [f"metadata is not YAML: {error}"]
    if not isinstance(data, dict):
        return ["metadata is no mapping"]
    errors = []
    if data.get("license", "mit") not in LICENSES:
        errors.append(f'"license" must be one of {sorted(LICENSES)}, found {data.get("license")!r}')
    if data.get("license") == "other" and not (data.get("license_name") and data.get("license_link")):
        errors.append('"license: other" needs "license_name" and "license_link"')
    tasks = [*data.get("task_categories", []), *([data["pipeline_tag"]] if "pipeline_tag" in data else [])]
    errors += [f"{task!r} is no task of the Hub" for task in tasks if task not in TASKS]
    for field in ("tags", "datasets", "metrics"):
        if any(not isinstance(value, str) for value in data.get(field, [])):
            errors.append(f'"{field}" must be a list of names')
    if repo_type == "space" and data.get("sdk") not in ("gradio", "static", "docker"):
        errors.append(f'"sdk" is {data.get("sdk")!r}')
    if "model-index" in data:
        try:
            _, results = model_index_to_eval_results(data["model-index"])
            values = {result.metric_type: result.metric_value for result in results}
            errors += [f"{name} is {value!r}, no number" for name, value in values.items() if not _is_number(value)]
        except (KeyError, TypeError, IndexError) as error:
            errors.append(f'"model-index" cannot be read: {error!r}')
    return errors


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
