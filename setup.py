"""Packaging of modeling_amns."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "modeling_amns" / "__init__.py").read_text()).group(1)

# Lower bounds, here and below, are versions that the tests were run with: uv pip install --resolution lowest-direct.
extras = {
    "audit": ["scikit-learn>=1.7"],
    "demo": ["gradio>=6.31"],
    "figures": ["matplotlib>=3.10"],
    "onnx": ["onnx>=1.19", "onnxscript>=0.6.2", "onnxruntime>=1.23"],
    "peft": ["peft>=0.18"],
    "qdrant": ["qdrant-client>=1.20"],
    "search": ["lancedb>=0.40", "filelock>=3.20"],
    "sentence-transformers": ["sentence-transformers>=6.0"],
    "tensorboard": ["tensorboard>=2.18"],
    "trackio": ["trackio>=0.30"],
    "video": ["av>=14"],
}
extras["test"] = [
    "pytest>=9",
    "pytest-xdist>=3.8",
    "ruff>=0.17",
    "mypy>=2.4.1",
    "hypothesis>=6.170",
    # Cards are read as Markdown, numbers of eight bits are given to the metric.
    "markdown-it-py>=4.3",
    "ml_dtypes>=0.6",
    "types-PyYAML>=6.0.12.20261113",
    # A test builds the wheel as this environment stands.
    "setuptools>=77",
    *(package for extra in extras.values() for package in extra),
]

# The page is tried in a browser, Debian's chromium or playwright's own; without them these tests are skipped.
extras["browser"] = ["playwright>=1.65"]

# Recipes, scripts and cards lie beside the package in the source and inside it once installed.
beside = {
    "modeling_amns.hub_cards": "hub_cards",
    "modeling_amns.scripts": "scripts",
    "modeling_amns.scripts.ablations": "scripts/ablations",
    "modeling_amns.scripts.recipes": "scripts/recipes",
}

setup(
    name="modeling_amns",
    version=VERSION,
    description="Text-to-image person retrieval that learns from wrong pairs: AMNS for Hugging Face transformers",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="modeling_amns contributors",
    project_urls={"Paper": "https://arxiv.org/abs/2409.06385"},
    keywords=[
        "text-to-image person retrieval",
        "person re-identification",
        "noisy correspondence",
        "image-text retrieval",
        "vision-language",
        "transformers",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["modeling_amns", "modeling_amns.*"]), *beside],
    package_dir=beside,
    entry_points={"console_scripts": ["amns = modeling_amns.commands:main"]},
    package_data={
        "modeling_amns": [
            "py.typed",
            "audit/sheet.html",
            "audit/sheet.css",
            "audit/sheet.js",
            "metrics/person_retrieval/README.md",
            "metrics/person_retrieval/*.txt",
            "metrics/person_retrieval/*.html",
        ],
        "modeling_amns.hub_cards": ["*.md", "space/*"],
        "modeling_amns.scripts.ablations": ["*.yaml"],
        "modeling_amns.scripts.recipes": ["*.yaml"],
    },
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.8",
        "transformers>=5.20",
        "datasets>=4.0",
        "accelerate>=1.10",
        "safetensors>=0.8",
        "huggingface_hub>=1.31",
        "evaluate>=0.4.6",
        "tokenizers>=0.23.1",
        "numpy>=2.0",
        "pillow>=10.3",
        "pyyaml>=6.0",
        "jinja2>=3.1",
        "psutil>=7.0",
        "httpx>=0.28",
        "typing_extensions>=4.14",
    ],
    extras_require=extras,
)
