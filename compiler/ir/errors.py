"""The one tree of errors. Each message is one paragraph: what is wrong, where, what is allowed or what to do."""

from __future__ import annotations

from collections.abc import Sequence


class FxedgeError(Exception):
    """Base of every error that fxedge raises on purpose; the command line prints it without a traceback."""


class InputError(FxedgeError):
    """What the user gave (a file, a folder, an option) cannot be used."""


class CaptureError(FxedgeError):
    """The model could not be turned into a graph; names the module path and the source line."""


class VerifierError(FxedgeError):
    """A graph does not have the form that its stage promises; names the node."""


class PassError(FxedgeError):
    """A pass failed; names the pass and the passes that ran before it."""


class CalibrationError(FxedgeError):
    """The calibration data cannot give ranges: empty, NaN or inf, wrong shape, or an edge that saw nothing."""


class UnsupportedOpsError(FxedgeError):
    """Nodes that a target cannot take, all of them at once.

    `reasons` holds (node name, op, reason) in graph order.
    """

    def __init__(self, target: str, reasons: Sequence[tuple[str, str, str]]) -> None:
        self.target = target
        self.reasons = tuple(reasons)
        lines = "\n".join(f"  {node} {op}: {reason}" for node, op, reason in self.reasons)
        super().__init__(f"{len(self.reasons)} op(s) cannot be lowered to {target}:\n{lines}")


class BackendUnavailableError(FxedgeError):
    """A runtime is not installed; names the library and the extra that brings it."""


class VerificationError(FxedgeError):
    """Deployed and simulated integers differ by more than the tolerance; says how many LSB and where."""


class BundleError(FxedgeError):
    """A bundle is damaged, incomplete, of another schema, or in the way."""
