"""Text-to-image person retrieval as a metric of `evaluate`: rank1, rank5, rank10, mAP, mINP.

The loader of `evaluate` reads the import lines below as text, one module a line, and copies `ranking.py` along.
"""

import datasets
import evaluate
import numpy as np
from torch import Tensor

from .ranking import BLOCK_SIZE, rank_metrics

_DESCRIPTION = """
Ranks a gallery of person images for each caption by cosine similarity and reports, in percent, Rank-1, Rank-5,
Rank-10, mean average precision (mAP) and mean inverse negative penalty (mINP). A hit is an image of the caption's
person; equal similarities rank in gallery order. Exact for any block size; memory grows with the block.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: embeddings of the captions (queries), float [Q, D]; need not be normalised; stored as float32.
    references: person id of each caption, int [Q].
    gallery_embeddings: embeddings of the images, float [G, D].
    gallery_ids: person id of each image, int [G].
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
        info = evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2409.06385", "https://arxiv.org/abs/2001.04193"],
        )
        # Arrays instead of lists of Python floats, eight times the memory. The constructor refuses it beside sequence
        # features, which nevertheless come out as one matrix.
        info.format = "numpy"
        return info

    def _compute(
        self,
        predictions: np.ndarray,
        references: np.ndarray,
        gallery_embeddings: Tensor | np.ndarray | None = None,
        gallery_ids: Tensor | np.ndarray | None = None,
        image_to_text: bool = False,
        block_size: int = BLOCK_SIZE,
    ) -> dict[str, float]:
        if gallery_embeddings is None or gallery_ids is None:
            raise ValueError("person_retrieval: compute needs gallery_embeddings [G, D] and gallery_ids [G].")
        return rank_metrics(predictions, references, gallery_embeddings, gallery_ids, image_to_text, block_size)
