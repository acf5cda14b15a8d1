"""Text-to-image person retrieval as a metric of `evaluate`: rank1, rank5, rank10, mAP, mINP.

The loader of `evaluate` reads the import lines below as text, one module a line, and copies these files
along.
"""

import datasets
import evaluate
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from .inputs import Ids, Matrix, ids_of, matrix_of
from .ranking import BLOCK_SIZE, rank_metrics

_DESCRIPTION = """
Ranks a gallery of person images for each caption by cosine similarity and reports, in percent, Rank-1, Rank-5,
Rank-10, mean average precision (mAP) and mean inverse negative penalty (mINP). A hit is an image of the caption's
person; equal similarities rank in gallery order. Exact for any block size; memory grows with the block.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: embeddings of the captions (queries), float [Q, D]; need not be normalised; stored as float32.
    references: person id of each caption [Q], all integers or all strings; "7", "07" and 7 are three persons.
    gallery_embeddings: embeddings of the images, float [G, D].
    gallery_ids: person id of each image [G], of the same kind.
    image_to_text: also rank the captions for each image.
    block_size: similarities held at a time.
Returns:
    rank1, rank5, rank10, mAP, mINP: percent, captions as queries.
    i2t_rank1, i2t_rank5, i2t_rank10, i2t_mAP, i2t_mINP: percent, images as queries; with image_to_text=True only.
Examples:
    >>> metric = evaluate.load("modeling_amns/metrics/person_retrieval")
    >>> metric.add_batch(predictions=[[1.0, 0.0], [0.0, 1.0]], references=[7, 8])
    >>> gallery = [[1.0, 0.1], [1.0, 0.2], [0.1, 1.0]]
    >>> metric.compute(gallery_embeddings=gallery, gallery_ids=[8, 7, 8])["rank1"]
    50.0
"""

_CITATION = """
@article{ye2021deep,
  title={Deep learning for person re-identification: A survey and outlook},
  author={Ye, Mang and Shen, Jianbing and Lin, Gaojie and Xiang, Tao and Shao, Ling and Hoi, Steven C. H.},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year={2021}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PersonRetrieval(evaluate.Metric):
    """Metric over caption embeddings (`predictions`), given the gallery at `compute`."""

    def _info(self) -> evaluate.MetricInfo:
        predictions = datasets.Sequence(datasets.Value("float32"))
        info = evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            # Text first: the other would take "007" for the number 7.
            features=[
                datasets.Features({"predictions": predictions, "references": datasets.Value(kind)})
                for kind in ("string", "int64")
            ],
            reference_urls=["https://arxiv.org/abs/2409.06385", "https://arxiv.org/abs/2001.04193"],
        )
        # Lists of Python floats take eight times the memory, numpy's strings lose zero bytes at their end. The
        # constructor refuses a format beside sequence features, which it can't know to come out well.
        info.format = "arrow"
        return info

    def add_batch(self, *, predictions: Matrix, references: Ids) -> None:
        """Adds queries: embeddings [B, D] and their person ids [B], all of one kind over all batches.

        Raises:
            ValueError: they are not that; whatever can be cast would be taken, a person 1.5 for person 1.
        """
        rows = matrix_of(predictions, "predictions")
        ids = ids_of(references, len(rows), "references")
        kind = "string" if isinstance(ids, list) and isinstance(ids[0], str) else "int64"
        if kind == "int64" and not isinstance(ids, Tensor):
            raise ValueError("references beyond 64 bits can't be stored; pass them as strings, gallery_ids too.")
        begun = self.selected_feature_format
        if begun is not None and begun["references"].dtype != kind:
            raise ValueError(f"references were {begun['references'].dtype} in earlier batches, here they are {kind}.")
        super().add_batch(
            predictions=rows.float().cpu().numpy(), references=ids.cpu().numpy() if isinstance(ids, Tensor) else ids
        )

    def add(self, *, prediction: Tensor | np.ndarray, reference: int | str) -> None:
        """Adds one query: its embedding [D] and person id."""
        self.add_batch(predictions=[prediction], references=[reference])

    def _compute(
        self,
        predictions: pa.ChunkedArray,
        references: pa.ChunkedArray,
        gallery_embeddings: Matrix | None = None,
        gallery_ids: Ids | None = None,
        image_to_text: bool = False,
        block_size: int = BLOCK_SIZE,
    ) -> dict[str, float]:
        if gallery_embeddings is None or gallery_ids is None:
            raise ValueError("person_retrieval: compute needs gallery_embeddings [G, D] and gallery_ids [G].")
        widths = sorted(pc.unique(pc.list_value_length(predictions)).to_pylist())
        if len(widths) != 1:
            raise ValueError(f"predictions must be rows of equal length; the batches had {widths} columns.")
        queries = pc.list_flatten(predictions).to_numpy().reshape(-1, widths[0])
        return rank_metrics(
            queries, references.to_pylist(), gallery_embeddings, gallery_ids, image_to_text, block_size
        )
