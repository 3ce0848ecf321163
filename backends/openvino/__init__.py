"""The `openvino` target: the QDQ ONNX models of `backends/onnx`, read by OpenVINO's CPU plugin."""

from .backend import backend

__all__ = ["backend"]
