"""QDQ ONNX models for onnxruntime."""

from .backend import backend

__all__ = ["backend"]
