"""What a user's own module could offer as `module:factory`."""

import torch


def mlp(width: int = 8, classes: int = 10) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(width, classes))


def not_a_module() -> str:
    return "a string"


def faulty(width: int = 8) -> torch.nn.Module:
    return torch.nn.Linear(width, "ten")  # type: ignore[arg-type]


NOT_CALLABLE = 3


class _ReadsValues(torch.nn.Module):
    """Looks at a number, which a tensor without data has not."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(16, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.hidden(images[:, 0].flatten(1) * float(images.mean()))


def reads_values() -> torch.nn.Module:
    return _ReadsValues()
