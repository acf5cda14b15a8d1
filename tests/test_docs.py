"""Examples in docstrings of the package give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import modeling_amns

MODULES = sorted(
    ["modeling_amns"]
    + [
        module.name
        for module in pkgutil.walk_packages(modeling_amns.__path__, "modeling_amns.")
        # Of an installed package these are its scripts and cards.
        if not module.name.startswith(("modeling_amns.scripts", "modeling_amns.hub_cards"))
    ]
)


def examples(name: str) -> list[doctest.DocTest]:
    """The docstrings with examples of a module; without its optional packages it is skipped."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").startswith("modeling_amns"):
            raise
        pytest.skip(str(error))
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name, tmp_path, monkeypatch, own_losses):
    # As from the root of the source, but nothing is written there.
    (tmp_path / "modeling_amns").symlink_to(modeling_amns.__path__[0], target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    printed: list[str] = []
    for test in examples(name):
        runner.run(test, out=printed.append)
    assert not runner.failures, "".join(printed)


def test_the_package_shows_runs():
    names = ("cli", "losses", "masking", "markdown")
    assert all(examples(f"modeling_amns.{name}") for name in names)
