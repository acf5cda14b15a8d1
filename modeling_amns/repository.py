"""A repository of the Hub: its client, its making, and the push of a model that is in memory.

Below `hub.py`, so that a model can push itself without loading what reads checkpoints.
"""

import tempfile
from functools import cache
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import LocalTokenNotFoundError
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from .cards import PICTURES, model_card
from .disk import names_full_disk
from .report import RESULTS

# What an earlier push may have left of which this one has none: reports, and weights in more than one file.
LEFTOVERS = (RESULTS, *PICTURES, "model-*-of-*.safetensors", SAFE_WEIGHTS_INDEX_NAME)


def push_model(
    model: PreTrainedModel,
    repo_id: str,
    *,
    commit_message: str | None = "Upload model",
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    max_shard_size: int | str = "50GB",
    tags: list[str] | None = None,
) -> CommitInfo:
    """What `model.push_to_hub` does: uploads a model as it stands in memory, whole, with a card without figures.

    Figures and pictures of an earlier push are removed: they are those of other weights. The processor, which is
    pushed by itself, stays. Arguments, result and errors of the client are those of `PreTrainedModel.push_to_hub`;
    `private=True` refuses a repository that is public.
    """
    api = client(token if isinstance(token, str) else None)
    repo_id = make_repository(api, repo_id, private, None if create_pr else revision)
    with tempfile.TemporaryDirectory() as folder:
        with names_full_disk(folder):
            model.save_pretrained(folder, max_shard_size=max_shard_size)
        model_card(folder, repo_id, tags=tags).save(Path(folder) / "README.md")
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message or "Upload model",
            commit_description=commit_description,
            delete_patterns=list(LEFTOVERS),
        )


def client(token: str | None) -> HfApi:
    """The client of a token, one for all its pushes, which it runs in the background one after the other.

    Raises:
        huggingface_hub.errors.LocalTokenNotFoundError: there is no token; asked before any work, so that it is an
            error of the first second.
    """
    if not (token or get_token()):
        raise LocalTokenNotFoundError(
            "There is no Hugging Face token. Run `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    return _client(token)


@cache
def _client(token: str | None) -> HfApi:
    return HfApi(token=token)


def refuse_public(api: HfApi, repo_id: str, repo_type: str = "model") -> None:
    """A ValueError if a repository is public."""
    if not api.repo_info(repo_id, repo_type=repo_type).private:
        raise ValueError(
            f"{repo_id} is there and public, private is asked for; nothing was uploaded. Make it private in its "
            "settings, or push under another name."
        )


def make_repository(
    api: HfApi, repo_id: str, private: bool | None, revision: str | None = None, repo_type: str = "model"
) -> str:
    """Makes repository and branch if need be; its full id."""
    repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
    if private:
        refuse_public(api, repo_id, repo_type)
    if revision and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
    return repo_id


__all__ = ["LEFTOVERS", "client", "make_repository", "push_model", "refuse_public"]
