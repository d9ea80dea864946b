"""Data: what one item is, the items of each split, batches of them, and readers and writers. Knows no model."""

from ladle.data.batch import Batch, batches, blank, make_batch, order, zeros
from ladle.data.conform import as_held
from ladle.data.dataset import Dataset, Split
from ladle.data.errors import DataError
from ladle.data.reading import is_name, read
from ladle.data.schema import Column, Schema
from ladle.data.write import atomic_file, atomic_folder, grey_levels, rehearse, sheet, write

__all__ = [
    "Batch",
    "Column",
    "DataError",
    "Dataset",
    "Schema",
    "Split",
    "as_held",
    "atomic_file",
    "atomic_folder",
    "batches",
    "blank",
    "grey_levels",
    "is_name",
    "make_batch",
    "order",
    "read",
    "rehearse",
    "sheet",
    "write",
    "zeros",
]
