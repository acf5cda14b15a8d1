"""Fixtures: tiny models and processors that fit a test suite of minutes. Nothing is read from the network."""

import itertools
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

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

import numpy as np
import pytest
import torch
from hypothesis import settings
from transformers.utils import logging

from modeling_amns import AMNSConfig, AMNSForPersonRetrieval, AMNSModel, AMNSProcessor
from modeling_amns.losses import MATCHING_LOSSES

logging.disable_progress_bar()
# Property tests draw the same few cases in each run; `--hypothesis-profile=long` draws many, new ones each time.
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=100, database=None)
settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("quick")


def pytest_addoption(parser):
    parser.addoption("--fuzz-seconds", type=float, default=0, help="each fuzz test goes on for so long with new seeds")
    parser.addoption("--fuzz-seed", type=int, help="each fuzz test tries this seed alone, as its failure named it")


@pytest.fixture
def fuzz(request):
    """`fuzz(count, check)` calls check(generator) for the seeds 0 to count - 1; a failure names its seed."""

    def run(count, check):
        seconds, seed = (request.config.getoption(name) for name in ("--fuzz-seconds", "--fuzz-seed"))
        seeds = range(count) if seed is None else [seed]
        if seconds:
            # Seeds that no earlier long run has tried, but one that is named can be tried again.
            seeds = itertools.chain(seeds, iter(lambda: secrets.randbelow(2**40), None))
        end = time.monotonic() + seconds
        for tried, number in enumerate(seeds, start=1):
            try:
                check(np.random.default_rng(number))
            except Exception as error:
                raise AssertionError(f"--fuzz-seed={number}: {type(error).__name__}: {error}") from error
            if seconds and tried >= count and time.monotonic() > end:
                print(f"{request.node.nodeid}: {tried} inputs")
                break

    return run


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


@pytest.fixture(scope="module")
def browser():
    """A chromium without a window, Debian's or playwright's own; tests that ask for it are skipped where none is."""
    api = pytest.importorskip("playwright.sync_api", reason='pages are tried with the extra "browser"')
    with api.sync_playwright() as tools:
        own = Path(tools.chromium.executable_path)
        names = ("chromium", "chromium-browser", "google-chrome")
        found = str(own) if own.is_file() else next(filter(None, map(shutil.which, names)), None)
        if found is None:
            pytest.skip("there is no chromium here")
        # Inside a container its own walls can't be built; what it opens is ours.
        opened = tools.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()
