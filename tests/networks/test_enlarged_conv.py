"""The convolution of an enlarged volume, beside its plain form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.networks.layers import enlarged_conv
from adapters.networks.layers.enlarged_conv import conv_of_enlarged


def plain(x: Tensor, weight: Tensor) -> Tensor:
    size = [2 * n for n in x.shape[2:]]
    return F.conv3d(F.interpolate(x, size=size, mode="trilinear", align_corners=True), weight, padding=1)


@pytest.mark.parametrize("shape", [(1, 5, 4, 4, 4), (2, 3, 3, 5, 7), (1, 2, 1, 4, 2), (1, 1, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("working_set", [1, 200, 2**20])
def test_is_the_plain_form(shape: tuple[int, ...], working_set: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enlarged_conv, "_WORKING_SET", working_set)
    x = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(6, shape[1], 3, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(conv_of_enlarged(x, weight), plain(x, weight), rtol=1e-12, atol=1e-12)
        strided = x.transpose(2, 4)
        torch.testing.assert_close(conv_of_enlarged(strided, weight), plain(strided, weight), rtol=1e-12, atol=1e-12)


def test_single_precision() -> None:
    x, weight = torch.randn(1, 32, 8, 8, 8), torch.randn(16, 32, 3, 3, 3)
    with torch.inference_mode():
        found, wanted = conv_of_enlarged(x, weight), plain(x, weight)
    assert found.dtype == torch.float32
    assert float((found - wanted).norm() / wanted.norm()) < 2e-6


def test_gradients_autocast_and_tracing_take_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enlarged_conv, "_taps", None)  # the other form cannot run
    x, weight = torch.randn(1, 2, 3, 3, 3), torch.randn(4, 2, 3, 3, 3, requires_grad=True)
    conv_of_enlarged(x, weight).sum().backward()
    again = weight.detach().clone().requires_grad_()
    plain(x, again).sum().backward()
    torch.testing.assert_close(weight.grad, again.grad)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert conv_of_enlarged(x, weight).dtype == torch.bfloat16
    traced = torch.jit.trace(conv_of_enlarged, (x, weight.detach()), check_trace=False)
    assert "conv3d" in str(traced.graph) or "convolution" in str(traced.graph)


def test_the_plain_form_is_taken_at_half_precision_and_said_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    x, weight = torch.randn(1, 2, 4, 4, 4), torch.randn(3, 2, 3, 3, 3)
    with torch.no_grad(), caplog.at_level("DEBUG", logger="adapters"):
        conv_of_enlarged(x, weight)
        assert not caplog.records
        half = conv_of_enlarged(x.bfloat16(), weight.bfloat16())
    torch.testing.assert_close(half, plain(x.bfloat16(), weight.bfloat16()), rtol=0, atol=0)
    assert [record.getMessage() for record in caplog.records] == [
        "a volume is enlarged before it is convolved, as it is not of full precision"
    ]
