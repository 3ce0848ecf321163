"""The scales of a program as a calibration cache of TensorRT's, for builders of the implicit kind (8, 10).

They build int8 engines from a float model and a table of its tensors' scales: float_model.onnx and this file. The
first line names a TensorRT version; 10 reads a table of its own version only, so that line may have to be edited.
TensorRT quantizes the weights itself, so such an engine has nothing of what rounding and bias correction changed.

The format is that of TensorRT's own caches: `name: scale`, the scale as the hexadecimal bits of a float32.
"""

from __future__ import annotations

import struct

from ...compiler.ir.nodes import input_name
from ...compiler.quant.program import Program

HEADER = "TRT-8601-EntropyCalibration2"


def calibration_cache(program: Program) -> str:
    """A line for each float value that `program` quantizes; the largest scale where it quantizes one twice."""
    nodes = {node.name: node for node in program.gm.graph.nodes}
    scales: dict[str, float] = {}
    for name, qp in program.integer_values().items():
        source = nodes[name].args[0]
        tensor = input_name(source) if source.op == "placeholder" else source.name
        scales[tensor] = max(qp.scale[0], scales.get(tensor, 0.0))
    lines = [f"{tensor}: {struct.pack('>f', scale).hex()}" for tensor, scale in scales.items()]
    return "\n".join([HEADER, *lines, ""])
