"""What a user's own module could offer as `module:factory`."""

import torch


def mlp(width: int = 8, classes: int = 10) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(width, classes))


def not_a_module() -> str:
    return "a string"


def faulty(width: int = 8) -> torch.nn.Module:
    return torch.nn.Linear(width, "ten")  # type: ignore[arg-type]


NOT_CALLABLE = 3
