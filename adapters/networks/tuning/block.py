"""The slots of a transformer block, in which methods of parameter-efficient tuning sit."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["BlockPlace", "BlockTuning"]


class BlockPlace(NamedTuple):
    """Where in an image encoder a block stands.

    Attributes:
        dim: width of the tokens.
        number: of the block, from 0.
        closes_level: whether a feature level is taken after it: the last block of a stage.
        grid: tokens along depth, height and width that the encoder is made for.
    """

    dim: int
    number: int
    closes_level: bool
    grid: tuple[int, int, int]


class BlockTuning(nn.Module):
    """What a method adds to one block; a method fills the slots that it needs, the others cost nothing.

    With all slots a block is ``x = before_attention(x)``, ``x = x + after_attention(attention(norm1(x)))``,
    ``n = norm2(x)``, ``x = x + after_mlp(mlp(n)) + beside_mlp(n)``, ``x, carried = after_block(x, carried)``.

    Tokens are (B, D, H, W, C), with D = 1 in 2D. The parameters of a method are new ones, trained.

    Args:
        place: the block that it is for. Further arguments are the method's own.
    """

    def __init__(self, place: BlockPlace) -> None:
        super().__init__()

    def fills(self, slot: str) -> bool:
        """Whether the method has something in a slot."""
        return getattr(type(self), slot) is not getattr(BlockTuning, slot)

    def initialise(self) -> None:
        """Set the starting values, where those of torch are not meant; called once the encoder is built."""

    def before_attention(self, x: Tensor) -> Tensor:
        """The block's input, ahead of the first norm."""
        return x

    def after_attention(self, y: Tensor) -> Tensor:
        """The attention's output, before it is added to its input."""
        return y

    def beside_mlp(self, n: Tensor) -> Tensor | None:
        """From the MLP's input, normalised: what is added beside the MLP's output. None: nothing."""
        return None

    def after_mlp(self, y: Tensor) -> Tensor:
        """The MLP's output, before it is added to its input."""
        return y

    def after_block(self, x: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The block's output.

        Args:
            x: the tokens.
            carried: what the method handed on from the block before; None in the first block.

        Returns:
            The tokens, and what the next block's method is handed.
        """
        return x, carried
