"""Whether integers that stay inside an artifact are what they are when they are shown.

An artifact all of whose integers are outputs may be another program to its runtime's optimizer. Where it gives the
outputs of the artifact itself, it is not. Where it does not, either a fusion computes otherwise, or one LSB has
grown: a float fusion with other borders moves an integer next to a rounding boundary, and some networks make much
of it (one LSB in the middle of YOLOX-Nano moves its outputs by 7 % in the mean, in the simulator as in a runtime).

To tell the two apart every other integer value is shown. Those are simulated from each other, over what is hidden
between, so that nothing has the time to grow; a fusion that drops a rounding moves far more integers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ...backends.base import Backend
from ..quant.program import Program
from .parity import NodeParity, compare_nodes
from .runtime import RemoteRuntime

# What a value next to a hidden one may have of integers that differ: a rounding that is dropped moves a fifth.
_LARGEST_SHARE = 0.05
_PART = "part"


def off_when_hidden(
    backend: Backend, program: Program, inputs: Sequence[Tensor], threads: int = 1
) -> NodeParity | None:
    """The value of which most integers differ from the simulator's while its neighbours are hidden; None where no
    more differ than rounding explains.

    Raises:
        VerificationError: the runtime failed.
    """
    names, arrays = list(program.integer_values()), [tensor.numpy() for tensor in inputs]
    found: list[NodeParity] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / backend.artifact
        for shown in (names[::2], names[1::2]):
            backend.emit(program, path, shown)
            with RemoteRuntime(backend.spec.name, {_PART: path}, threads) as runtime:
                values = runtime.run(_PART, arrays)[-len(shown) :] if shown else []
            found += compare_nodes(program, inputs, dict(zip(shown, values, strict=True)))
    worst = max(found, key=lambda node: node.differing / max(node.total, 1), default=None)
    return worst if worst is not None and worst.differing > _LARGEST_SHARE * worst.total else None
