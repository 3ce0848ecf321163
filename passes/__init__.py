"""The graph rewrites: one pass in each file, named after it; files with a leading underscore are shared parts."""

from .canonicalize import Canonicalize
from .clean_qdq import CleanQdq
from .correct_bias import CorrectBias
from .equalize_layers import EqualizeLayers
from .fix_saturation import FixSaturation
from .fold_batch_norm import FoldBatchNorm
from .fuse_activation import FuseActivation
from .insert_qdq import InsertQdq
from .smooth_activations import SmoothActivations

__all__ = [
    "Canonicalize",
    "CleanQdq",
    "CorrectBias",
    "EqualizeLayers",
    "FixSaturation",
    "FoldBatchNorm",
    "FuseActivation",
    "InsertQdq",
    "SmoothActivations",
]
