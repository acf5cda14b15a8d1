"""Optional packages: imported where they are needed; absent, the error names the extra that installs them."""

import importlib
from types import ModuleType


def require(package: str, extra: str, purpose: str) -> ModuleType:
    """Imports an optional package.

    Args:
        package: name to import.
        extra: extra of this package that installs it.
        purpose: what needs it, the start of the error.
    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.split(".")[0]:
            raise
        raise ImportError(
            f'{purpose} needs the package {error.name}, which is not installed: pip install "modeling_amns[{extra}]".'
        ) from error


__all__ = ["require"]
