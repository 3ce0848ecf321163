"""Explicitly quantized ONNX models for TensorRT."""

from .backend import backend

__all__ = ["backend"]
