"""fxedge: a deployment compiler from torch.fx graphs to edge runtimes.

The public API. Names are imported when they are first used, so that `fxedge --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compiler.ir.capture import capture as capture
    from .compiler.ir.errors import BackendUnavailableError as BackendUnavailableError
    from .compiler.ir.errors import BundleError as BundleError
    from .compiler.ir.errors import CalibrationError as CalibrationError
    from .compiler.ir.errors import CaptureError as CaptureError
    from .compiler.ir.errors import FxedgeError as FxedgeError
    from .compiler.ir.errors import InputError as InputError
    from .compiler.ir.errors import PassError as PassError
    from .compiler.ir.errors import UnsupportedOpsError as UnsupportedOpsError
    from .compiler.ir.errors import VerificationError as VerificationError
    from .compiler.ir.errors import VerifierError as VerifierError
    from .compiler.ir.passes import run_passes as run_passes
    from .compiler.pipeline.data import from_arrays as from_arrays
    from .compiler.pipeline.data import open_dataset as open_dataset
    from .compiler.pipeline.driver import compile_model as compile_model
    from .compiler.pipeline.options import CompileOptions as CompileOptions
    from .compiler.pipeline.preprocess import Preprocess as Preprocess
    from .compiler.pipeline.verify import verify_bundle as verify_bundle
    from .compiler.quant.calibrate import calibrate as calibrate
    from .compiler.quant.plan import plan_quantization as plan_quantization
    from .compiler.quant.program import build_program as build_program
    from .compiler.quant.qparams import QParams as QParams
    from .compiler.quant.qparams import QSpec as QSpec
    from .compiler.quant.simulate import simulate as simulate
    from .compiler.quant.target import TargetSpec as TargetSpec

__version__ = "0.1.0"

_WHERE = {
    "capture": "compiler.ir.capture",
    "run_passes": "compiler.ir.passes",
    "plan_quantization": "compiler.quant.plan",
    "calibrate": "compiler.quant.calibrate",
    "build_program": "compiler.quant.program",
    "simulate": "compiler.quant.simulate",
    "QSpec": "compiler.quant.qparams",
    "QParams": "compiler.quant.qparams",
    "TargetSpec": "compiler.quant.target",
    "compile_model": "compiler.pipeline.driver",
    "CompileOptions": "compiler.pipeline.options",
    "verify_bundle": "compiler.pipeline.verify",
    "open_dataset": "compiler.pipeline.data",
    "from_arrays": "compiler.pipeline.data",
    "Preprocess": "compiler.pipeline.preprocess",
    "FxedgeError": "compiler.ir.errors",
    "InputError": "compiler.ir.errors",
    "CaptureError": "compiler.ir.errors",
    "VerifierError": "compiler.ir.errors",
    "PassError": "compiler.ir.errors",
    "CalibrationError": "compiler.ir.errors",
    "UnsupportedOpsError": "compiler.ir.errors",
    "BackendUnavailableError": "compiler.ir.errors",
    "VerificationError": "compiler.ir.errors",
    "BundleError": "compiler.ir.errors",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> object:
    """The public name, imported now."""
    if name not in _WHERE:
        raise AttributeError(f"module 'fxedge' has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
