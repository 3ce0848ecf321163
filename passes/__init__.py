"""The graph rewrites: one pass in each file, named after it.

Files with a leading underscore and folders are shared parts: the forms that `canonicalize` knows, the channels
that scale together, splitting and rounding.
"""

from .absorb_bias import AbsorbBias
from .canonicalize import Canonicalize
from .clean_qdq import CleanQdq
from .correct_bias import CorrectBias
from .equalize_activations import EqualizeActivations
from .equalize_layers import EqualizeLayers
from .fix_saturation import FixSaturation
from .fold_batch_norm import FoldBatchNorm
from .fold_dead_channels import FoldDeadChannels
from .fuse_activation import FuseActivation
from .insert_qdq import InsertQdq
from .join_ranges import JoinRanges
from .round_weights import RoundWeights
from .shift_activations import ShiftActivations
from .smooth_activations import SmoothActivations
from .split_outliers import SplitOutliers
from .split_ranges import SplitRanges
from .strip_qdq import StripQdq

__all__ = [
    "AbsorbBias",
    "Canonicalize",
    "CleanQdq",
    "CorrectBias",
    "EqualizeActivations",
    "EqualizeLayers",
    "FixSaturation",
    "FoldBatchNorm",
    "FoldDeadChannels",
    "FuseActivation",
    "InsertQdq",
    "JoinRanges",
    "RoundWeights",
    "ShiftActivations",
    "SmoothActivations",
    "SplitOutliers",
    "SplitRanges",
    "StripQdq",
]
