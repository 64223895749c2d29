"""accelbench: training throughput on any accelerator, measured so that the number is true.

The package root imports nothing: `bench --help` must answer at once, and the parent process of a
measurement must never import torch.
"""

from bench._version import __version__

__all__ = ["__version__"]
