"""TFLite flatbuffers for LiteRT."""

from .backend import backend

__all__ = ["backend"]
