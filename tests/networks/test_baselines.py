"""Other people's networks behind the interface of ours."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.nets import DynUNet, SegResNet
from torch import Tensor, nn

from adapters.networks import ClickChannelNetwork

SIZE = (8, 10, 12)


class Echo(nn.Module):
    """Hands back its channels, in the forms that networks with deep supervision have."""

    def __init__(self, form: str = "tensor") -> None:
        super().__init__()
        self.form = form
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor | list[Tensor] | tuple[Tensor, ...]:
        self.seen = x
        logits = torch.cat([-x[:, :1], x[:, :1]], dim=1)
        match self.form:
            case "list":
                return [logits, logits[..., ::2]]
            case "tuple":
                return logits, logits + 1
            case "stack":
                return torch.stack([logits, logits + 1], dim=1)
        return logits


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 1, *SIZE)


CLICKS = torch.tensor([[[2.0, 3.0, 4.0], [6.0, 7.0, 8.0]], [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
LABELS = torch.tensor([[1, 0], [1, -1]])


@pytest.mark.parametrize("form", ["tensor", "list", "tuple", "stack"])
def test_the_first_output_is_taken(image: Tensor, form: str) -> None:
    logits = ClickChannelNetwork(Echo(form))(image)
    torch.testing.assert_close(logits, torch.cat([-image, image], dim=1))


def test_encode_and_decode_give_forward(image: Tensor) -> None:
    network = ClickChannelNetwork(SegResNet(init_filters=8, in_channels=3, out_channels=2), clicks=True).eval()
    cube = torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad():
        whole = network(cube, CLICKS, LABELS)
        parts = network.decode(network.encode(cube), cube, CLICKS, LABELS)
        automatic = network(cube)
    assert whole.shape == (2, 2, 16, 16, 16)
    torch.testing.assert_close(whole, parts)
    assert not torch.allclose(whole, automatic)


def test_clicks_become_two_channels_of_bumps(image: Tensor) -> None:
    echo = Echo()
    ClickChannelNetwork(echo, clicks=True, sigma=2.0)(image, CLICKS, LABELS)
    assert echo.seen is not None
    assert echo.seen.shape == (2, 3, *SIZE)
    torch.testing.assert_close(echo.seen[:, :1], image)
    on, off = echo.seen[:, 1], echo.seen[:, 2]
    assert float(on[0, 2, 3, 4]) == pytest.approx(1.0, abs=1e-5)
    assert float(on[0, 2, 3, 6]) == pytest.approx(math.exp(-0.5), abs=1e-5)  # one standard deviation away
    assert float(off[0, 6, 7, 8]) == pytest.approx(1.0, abs=1e-5)
    assert float(off[0, 2, 3, 4]) < 1e-2
    assert float(on[1, 1, 1, 1]) == pytest.approx(1.0, abs=1e-5)
    assert not off[1].any()  # the second item's other click is padding


def test_labels_are_positive_unless_given(image: Tensor) -> None:
    echo = Echo()
    network = ClickChannelNetwork(echo, clicks=True)
    network(image, CLICKS, torch.ones(2, 2, dtype=torch.long))
    given = echo.seen
    network(image, CLICKS)
    torch.testing.assert_close(echo.seen, given)


@pytest.mark.parametrize("clicks", [None, torch.zeros(2, 0, 3)], ids=["None", "N = 0"])
def test_without_clicks_the_channels_are_empty(image: Tensor, clicks: Tensor | None) -> None:
    echo = Echo()
    ClickChannelNetwork(echo, clicks=True)(image, clicks)
    assert echo.seen is not None
    assert echo.seen.shape[1] == 3
    assert not echo.seen[:, 1:].any()


def test_clicks_and_mask_are_ignored_where_not_wanted(image: Tensor) -> None:
    echo = Echo()
    logits = ClickChannelNetwork(echo)(image, CLICKS, LABELS, mask=torch.ones_like(image))
    torch.testing.assert_close(echo.seen, image)
    torch.testing.assert_close(logits, torch.cat([-image, image], dim=1))


def test_deep_supervision_of_dynunet() -> None:
    backbone = DynUNet(3, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, [4, 8, 8, 8], deep_supervision=True, deep_supr_num=1)
    logits = ClickChannelNetwork(backbone)(torch.randn(1, 1, 16, 16, 16))
    assert logits.shape == (1, 2, 16, 16, 16)


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_bad_sigma(sigma: float) -> None:
    with pytest.raises(ValueError, match=f"sigma={sigma}.*positive number of voxels"):
        ClickChannelNetwork(Echo(), sigma=sigma)
