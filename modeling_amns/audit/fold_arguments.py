"""Which models judge the pairs that they have not seen, as command-line options."""

from dataclasses import dataclass, field
from pathlib import Path

import datasets

from ..run_arguments import NoiseArguments
from .cross_fitting import check_fold_models, check_folds


@dataclass
class FoldArguments:
    """Models of folds, each of which judges the pairs of persons that it has not seen."""

    fold_models: list[str] | None = field(
        default=None, metadata={"help": "Output folders of runs with --left_out_fold 1/K to K/K, in this order."}
    )

    def check(self) -> None:
        """All that can be said before the work starts.

        Raises:
            ValueError: options do not go together.
        """
        if self.fold_models is not None and len(self.fold_models) < 2:
            raise ValueError(
                f"--fold_models needs the models of at least 2 folds, found {len(self.fold_models)}: each judges the "
                "persons of its own."
            )

    def models(self, source: NoiseArguments, train: datasets.Dataset) -> list[Path]:
        """The folder of each fold's model, checked; empty where none is asked for.

        Args:
            source: of the data.
            train: the pairs that are audited, with their noise.
        Raises:
            ValueError, FileNotFoundError: as of `check_fold_models` and `check_folds`.
        """
        if self.fold_models is None:
            return []
        folders = [Path(folder) for folder in self.fold_models]
        check_folds(train, len(folders))
        check_fold_models(folders, train)
        return folders


__all__ = ["FoldArguments"]
