"""SAM's two-layer perceptron."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Mlp"]


class Mlp(nn.Module):
    """Linear layer, activation, linear layer.

    Args:
        dim: width of input and output.
        hidden: width between the layers.
        activation: class of the activation.
    """

    def __init__(self, dim: int, hidden: int, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.lin2(self.activation(self.lin1(x)))
