"""Your own pairs as `datasets`, with the columns of the benchmarks: from a table with image paths or a data set."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import datasets

from .benchmarks import check_options
from .files import ImageFolder, check_folder
from .pair_files import Columns
from .pair_records import read_pairs
from .pair_sources import Source, open_source
from .pair_stream import stream_pairs
from .records import Record, knows_truth
from .tables import Found, SplitRows, attached_split, cached_split, keep_present, own_form


def load_pairs(
    source: Source,
    split: str | None = None,
    image_root: str | Path | None = None,
    image_column: str = "image",
    caption_column: str | Sequence[str] = "caption",
    person_id_column: str | None = "person_id",
    split_column: str = "split",
    streaming: bool = False,
    on_missing: str = "error",
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset:
    """A split of your own data, ready for training (`train`) or for evaluation (`val`, `test`).

    Args:
        source: one of
            - a `.csv`, `.tsv`, `.json`, `.jsonl` or `.parquet` file, a row for each pair, with paths of images;
            - several of one kind as a pattern, `shards/*.parquet`, in the order of their names; rows of a stream are
              shared out by file, of Parquet by row group;
            - a folder with such a file named `metadata.*`, or with shards of Parquet;
            - a folder written by `save_to_disk`, or a `datasets` object; images as paths or as an `Image` column;
            - the id of a data set on the Hub;
            - `{"train": SOURCE, "test": SOURCE}`, where each split has a source of its own.
        split: `train`, `val` or `test`; None takes a source without splits whole, as training pairs.
        image_root: folder that holds all images, by default that of the file. Paths are relative to it or lie in it.
        image_column, caption_column, person_id_column, split_column: names in the source. A caption may be a list of
            captions of the same image. Several caption columns are a pair each; of them empty cells are left out, one
            of each row must be filled. `person_id_column=None`: nothing says who is shown, and each image is a person
            of its own, told from others as `image_id` says.
        streaming: train only: rows are read when they are needed, and no cache is written.
        on_missing: as for `load_benchmark`; a stream takes `error` only, as nobody counts what it would leave out.
    Returns:
        What `load_benchmark` returns, and the column `person_name`, the person id as the source has it. `person_id`
        counts from 0 without gaps in every split, in the order of the sorted ids: by value where all are whole
        numbers, else as text. `image_id` tells images apart by path, or by content where the source holds their
        bytes; `image_path` may then be empty. Without person ids `person_id` is `image_id`, there is no `person_name`,
        and training refuses what needs ids by name. A source with a column `is_clean` of truth values (of a list of
        captions one each, or one for all) has it in `train` too: only what scores a method looks at it.
        With `streaming` an `IterableDataset` of `image`, `caption`, `person_id`, `image_path`, and no `is_clean`: ids
        cannot be renumbered nor images counted before they are read, so ids must be whole numbers from 0 already, and
        a model with an identity loss needs `num_identities` above the largest. Without person ids they are 63 bits of
        a digest of the image's bytes or path.
    Raises:
        ValueError: a column is missing, a row is not what it should be (in a stream when it is reached), the split is
            not there, an image lies outside `image_root`.
        FileNotFoundError: there is no such source; images are missing.

    Example:

        >>> from tempfile import mkdtemp
        >>> from PIL import Image
        >>> folder = Path(mkdtemp())
        >>> for name in ("1.png", "2.png"):
        ...     Image.new("RGB", (4, 8)).save(folder / name)
        >>> rows = ["image,caption,name,split", "1.png,a red coat,ada,train", "2.png,a hat,guest 17,test"]
        >>> _ = (folder / "pairs.csv").write_text("\\n".join(rows))
        >>> len(load_pairs(folder / "pairs.csv", split="train", person_id_column="name"))
        1
        >>> test = load_pairs(folder / "pairs.csv", split="test", person_id_column="name")
        >>> test["gallery"]["person_name"][:]
        ['guest 17']
    """
    check_options(split or "train", on_missing)
    names = Columns(image_column, caption_column, person_id_column, split_column)
    if streaming:
        if split not in (None, "train"):
            raise ValueError(f"streaming is for training; {split} is ranked as a whole: load it with streaming=False.")
        if on_missing != "error":
            raise ValueError(f'on_missing="{on_missing}" does not go with streaming: images are met one by one.')
        return stream_pairs(open_source(source, split, image_root, streaming=True), names, split)
    opened = open_source(source, split, image_root)
    title = opened.title
    pairs, chosen = read_pairs(opened, names, split)
    records = pairs.records
    if chosen:
        for remark in pairs.remarks:
            warnings.warn(remark, stacklevel=2)
        records = [record for record in records if record.split == chosen]
    split = split or "train"
    if not records:
        raise ValueError(f"{title} has no rows of split {split}.")
    form = own_form(split, split == "train" and knows_truth(title, records), names.person_id is not None)
    if isinstance(pairs.images, datasets.Dataset):
        numbers = [record.number for record in records]
        images = pairs.images if len(numbers) == len(pairs.images) else pairs.images.select(numbers)
        return attached_split(form, SplitRows(records, form), images)
    found = _present(records, pairs.images, title, on_missing)
    return cached_split(title, split, form, found, key=[title, pairs.key, vars(names), chosen])


def _present(records: list[Record], images: ImageFolder, title: str, on_missing: str) -> Found:
    check_folder(images.root)
    found = keep_present(records, images)
    if found.missing:
        text = f"{title}: {len(found.missing):,} of {found.images:,} images are not in {images.root}. "
        text += images.describe_missing(found.missing, [record.path for record in records])
        if on_missing == "error" or not found.records:
            raise FileNotFoundError(
                f'{text} Pass image_root= their folder, or on_missing="drop" to go on without them.'
            )
        warnings.warn(f"{text} Their pairs are left out.", stacklevel=3)
    return found


__all__ = ["load_pairs"]
