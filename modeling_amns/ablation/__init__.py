"""Ablations: a grid of training runs, each a process of its own, and what they found, with paired statistics."""

from .grid import Cell, Grid, check_grid, read_grid
from .records import CellRecord, read_records, sort_records
from .runs import CellRunner, start_cell
from .statistics import Difference, PersonFigures, paired_difference
from .tables import ablation_page, draw_curves

__all__ = [
    "Cell",
    "CellRecord",
    "CellRunner",
    "Difference",
    "Grid",
    "PersonFigures",
    "ablation_page",
    "check_grid",
    "draw_curves",
    "paired_difference",
    "read_grid",
    "read_records",
    "sort_records",
    "start_cell",
]
