"""Panoptic Quality and Parsing Covering: of arrays, image by image, and of files in COCO's panoptic format.

No panoptic model is here: this judges what any of them gave. Source: reference fact 6.9.
"""

from deeplab.evaluation.panoptic.coco import PanopticFiles, evaluate_files, read_files
from deeplab.evaluation.panoptic.covering import ParsingCovering
from deeplab.evaluation.panoptic.quality import PanopticQuality

__all__ = ["PanopticFiles", "PanopticQuality", "ParsingCovering", "evaluate_files", "read_files"]
