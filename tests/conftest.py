"""Fixtures: tiny models and processors that fit a test suite of minutes. Nothing is read from the network."""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tables that tests make don't belong in the user's cache. Programs that tests start share the folder; the first
# removes it at its end.
if "AMNS_TEST_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="amns-datasets-", ignore_cleanup_errors=True)
    os.environ["AMNS_TEST_CACHE"] = _cache.name
os.environ["HF_DATASETS_CACHE"] = os.environ["AMNS_TEST_CACHE"]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing by threads, and those of two test processes would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers.utils import logging

from modeling_amns import AMNSConfig, AMNSForPersonRetrieval, AMNSModel, AMNSProcessor
from modeling_amns.losses import MATCHING_LOSSES

logging.disable_progress_bar()

IMAGE_SIZE = [64, 32]
PATCH = 8
CAPTIONS = [
    "A man in a red coat carries a black backpack.",
    "The woman wears a blue dress, white shoes and a small handbag.",
    "a boy with green shorts and a yellow T-shirt",
]
# In front of a program: it can't import the package.
REFUSE_THE_PACKAGE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_amns":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
"""


def tiny_config(**changes) -> AMNSConfig:
    """Two encoders of 3 layers and 32 channels; `changes` go to the top level or to the part that they name."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = {**sizes, "image_size": IMAGE_SIZE, "patch_size": PATCH, **changes.pop("vision_config", {})}
    text = {**sizes, "vocab_size": 620, "bos_token_id": 618, "eos_token_id": 619, "pad_token_id": 619}
    text.update(changes.pop("text_config", {}))
    return AMNSConfig(vision_config=vision, text_config=text, projection_dim=16, **changes)


@pytest.fixture
def config() -> AMNSConfig:
    return tiny_config()


@pytest.fixture
def model(config) -> AMNSModel:
    torch.manual_seed(0)
    return AMNSModel(config).eval()


@pytest.fixture(scope="session")
def processor() -> AMNSProcessor:
    return AMNSProcessor.from_captions(CAPTIONS * 20, IMAGE_SIZE, vocab_size=620)


def tiny_retrieval_model(processor: AMNSProcessor, num_identities: int = 0, **changes) -> AMNSForPersonRetrieval:
    """A trainable tiny model that fits a processor's tokenizer and image size."""
    vision = {"image_size": list(processor.image_size), **changes.pop("vision_config", {})}
    torch.manual_seed(0)
    return AMNSForPersonRetrieval(
        tiny_config(
            text_config=processor.text_config_fields, vision_config=vision, num_identities=num_identities, **changes
        )
    )


@pytest.fixture
def own_losses():
    """Losses that a test registers are forgotten after it."""
    before = dict(MATCHING_LOSSES)
    yield
    MATCHING_LOSSES.clear()
    MATCHING_LOSSES.update(before)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(4, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(1))
