"""fxedge: a deployment compiler from torch.fx graphs to edge runtimes."""

__version__ = "0.1.0"
