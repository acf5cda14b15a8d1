"""Which models judge the pairs that they have not seen, as command-line options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
from accelerate import PartialState

from ..run_arguments import NoiseArguments
from .cross_fitting import check_fold_models, check_folds
from .fold_runs import fold_options, train_folds


@dataclass
class FoldArguments:
    """Models of folds, each of which judges the pairs of persons that it has not seen."""

    fold_models: list[str] | None = field(
        default=None, metadata={"help": "Output folders of runs with --left_out_fold 1/K to K/K, in this order."}
    )
    folds: int | None = field(
        default=None, metadata={"help": "Train the models of so many folds by --config instead."}
    )
    config: str | None = field(
        default=None, metadata={"help": "Recipe of train.py for --folds; the data are those of the audit."}
    )
    folds_dir: str = field(
        default="outputs/folds",
        metadata={"help": "Folder for the runs of --folds; those that are done in it are not trained again."},
    )

    def check(self, source: NoiseArguments) -> dict[str, Any] | None:
        """All that can be said before the work starts.

        Args:
            source: of the data.
        Returns:
            options of the runs that `--folds` asks for.
        Raises:
            ValueError, FileNotFoundError: options do not go together; as of `fold_options`.
        """
        if self.fold_models is not None and self.folds is not None:
            raise ValueError("--fold_models names models that there are, --folds trains them; leave one of them out.")
        count = self.folds if self.fold_models is None else len(self.fold_models)
        if count is not None and count < 2:
            option = "--folds" if self.fold_models is None else "--fold_models"
            raise ValueError(
                f"{option}: expected at least 2 folds, found {count}; one would leave nobody to train on."
            )
        if self.folds is None:
            if self.config is not None or self.folds_dir != type(self).folds_dir:
                raise ValueError("--config and --folds_dir are of --folds; pass it as well.")
            return None
        if self.config is None:
            raise ValueError("--folds needs the recipe of its runs: pass --config, a file of train.py or quickstart.")
        if PartialState().num_processes > 1:
            raise ValueError("--folds starts its runs by itself; start the audit without accelerate launch.")
        return fold_options(self.config, source)

    def models(self, options: dict[str, Any] | None, train: datasets.Dataset) -> list[Path]:
        """The folder of each fold's model, trained where that is asked for, and checked; empty where there are none.

        Args:
            options: of `check`.
            train: the pairs that are audited, with their noise.
        Raises:
            ValueError, FileNotFoundError: as of `check_folds`, `check_fold_models` and `train_folds`.
            ChildProcessError: a run failed.
        """
        folders = [Path(folder) for folder in self.fold_models or ()]
        if not folders and self.folds is None:
            return []
        check_folds(train, self.folds or len(folders))
        if options is not None:
            folders = train_folds(options, self.folds or 0, self.folds_dir, lambda line: print(line, flush=True))
        check_fold_models(folders, train)
        return folders


__all__ = ["FoldArguments"]
