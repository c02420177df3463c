"""Other people's networks behind the interface of ours."""

from __future__ import annotations

import math

import pytest
import torch
from clicking import clicked
from monai.networks.nets import DynUNet, SegResNet
from torch import Tensor, nn

from adapters.networks import ClickChannelNetwork, build_network

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
        whole = network(cube, clicked(CLICKS, LABELS))
        parts = network.logits(network.encode(cube), cube, clicked(CLICKS, LABELS))
        automatic = network(cube)
    assert whole.shape == (2, 2, 16, 16, 16)
    torch.testing.assert_close(whole, parts)
    assert not torch.allclose(whole, automatic)


def test_clicks_become_two_channels_of_bumps(image: Tensor) -> None:
    echo = Echo()
    ClickChannelNetwork(echo, clicks=True, sigma=2.0)(image, clicked(CLICKS, LABELS))
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


@pytest.mark.parametrize("clicks", [None, torch.zeros(2, 0, 3)], ids=["None", "N = 0"])
def test_without_clicks_the_channels_are_empty(image: Tensor, clicks: Tensor | None) -> None:
    echo = Echo()
    ClickChannelNetwork(echo, clicks=True)(image, clicked(clicks))
    assert echo.seen is not None
    assert echo.seen.shape[1] == 3
    assert not echo.seen[:, 1:].any()


def test_prompts_that_it_does_not_take_are_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match="the prompts hold points, the network takes none: leave them out"):
        ClickChannelNetwork(Echo())(image, clicked(CLICKS, LABELS))
    with pytest.raises(ValueError, match="the prompts hold mask, the network takes points"):
        ClickChannelNetwork(Echo(), clicks=True)(image, clicked(CLICKS, LABELS, torch.zeros_like(image)))


def test_in_the_plane() -> None:
    echo = Echo("stack")
    network = ClickChannelNetwork(echo, clicks=True, spatial_dims=2)
    image = torch.randn(1, 1, 8, 10)
    log_odds = network.decode(network.encode(image), image, clicked(torch.tensor([[[2.0, 3.0]]])))
    torch.testing.assert_close(log_odds, 2 * image)
    assert echo.seen is not None
    assert echo.seen[0, 1].argmax() == 2 * 10 + 3
    with pytest.raises(ValueError, match="spatial_dims=4: expected 2 or 3"):
        ClickChannelNetwork(echo, spatial_dims=4)


def test_by_name() -> None:
    network = build_network("click_channels", Echo(), clicks=True, sigma=3.0)
    assert isinstance(network, ClickChannelNetwork)
    assert network.takes == {"points"}


def test_weights_made_with_another_width_of_the_bumps_are_refused() -> None:
    backbone = nn.Conv3d(3, 2, 1)
    state = ClickChannelNetwork(backbone, clicks=True, sigma=3.0).state_dict()
    with pytest.raises(ValueError, match=r"was made with sigma=3\.0, but the network has sigma=2\.0"):
        ClickChannelNetwork(backbone, clicks=True).load_state_dict(state)
    ClickChannelNetwork(backbone, clicks=True, sigma=3.0).load_state_dict(state)


def test_deep_supervision_of_dynunet() -> None:
    backbone = DynUNet(3, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, [4, 8, 8, 8], deep_supervision=True, deep_supr_num=1)
    logits = ClickChannelNetwork(backbone)(torch.randn(1, 1, 16, 16, 16))
    assert logits.shape == (1, 2, 16, 16, 16)


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_bad_sigma(sigma: float) -> None:
    with pytest.raises(ValueError, match=f"sigma={sigma}.*positive number of voxels"):
        ClickChannelNetwork(Echo(), sigma=sigma)
