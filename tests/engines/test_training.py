"""Training steps with simulated clicks: on a ball that a small network learns in a few steps, and on a recorder."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.losses import DiceCELoss
from torch import Tensor, nn

from adapters.engines import ClipGradientsByPart, InteractiveUpdate, PublishedClicks
from adapters.networks import Backbone, Sizes, build_sam_adapter3d
from adapters.networks.promptable import PromptableNetwork
from adapters.prompts import PromptTensors

SIZE = 32
SMALL = Sizes(
    Backbone("small", embed_dim=48, depth=4, num_heads=2, global_blocks=(), table_size=16, sam_window=4),
    window_size=4,
    out_channels=32,
    prompt_heads=4,
    prompt_mlp_dim=64,
    head_channels=16,
)


def ball(centre: tuple[int, int, int], radius: float, size: int = SIZE) -> Tensor:
    axes = torch.meshgrid(*[torch.arange(size, dtype=torch.float32)] * 3, indexing="ij")
    return (sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) <= radius**2).float()[None, None]


@pytest.fixture(scope="module")
def batch() -> dict[str, Tensor]:
    label = torch.cat([ball((12, 16, 18), 7), ball((20, 14, 12), 6)])
    noise = torch.randn(label.shape, generator=torch.Generator().manual_seed(0))
    return {"image": 0.8 * label - 0.4 + 0.2 * noise, "label": label}


class Recorder(PromptableNetwork):
    """Answers with one logit everywhere, or with what `answer` makes of the image, and notes what it is asked."""

    def __init__(self, answer: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.answer = answer or (lambda image: torch.full_like(image, -1.0))
        self.encoded = 0
        self.asked: list[tuple[Any, Any, Any]] = []

    def encode(self, image: Tensor) -> Tensor:
        self.encoded += 1
        return self.answer(image) + self.bias

    def logits(self, features: Tensor, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        self.asked.append((None, None, None) if prompts is None else (prompts.points, prompts.labels, prompts.mask))
        return torch.cat([-features, features], dim=1)


def trainer(
    network: nn.Module, batch: dict[str, Tensor], update: InteractiveUpdate, steps: int = 1
) -> SupervisedTrainer:
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch] * steps,
        network=network,
        optimizer=torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3),
        loss_function=DiceCELoss(include_background=False, to_onehot_y=True, softmax=True),
        iteration_update=update,
        decollate=False,
    )


def losses_of(network: nn.Module, batch: dict[str, Tensor], update: InteractiveUpdate, steps: int) -> list[float]:
    engine = trainer(network, batch, update, steps)
    losses: list[float] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"]))
    engine.run()
    return losses


def asked(batch: dict[str, Tensor], answer: Callable[[Tensor], Tensor] | None = None, steps: int = 1, **options: Any):
    network = Recorder(answer)
    trainer(network, batch, InteractiveUpdate(**options), steps).run()
    return network


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return build_sam_adapter3d(SMALL, SIZE, "all")


def test_the_loss_falls_and_a_seed_repeats_it(batch: dict[str, Tensor]) -> None:
    first = losses_of(small_network(), batch, InteractiveUpdate(rounds=2, seed=3), 15)
    assert np.mean(first[-3:]) < 0.6 * np.mean(first[:3])
    again = losses_of(small_network(), batch, InteractiveUpdate(rounds=2, seed=3), 3)
    assert again == first[:3]


def test_output_and_weights_of_a_step(batch: dict[str, Tensor]) -> None:
    network = small_network().eval()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    engine = trainer(network, batch, InteractiveUpdate(rounds=2, automatic=0.0))
    engine.run()
    output = engine.state.output
    assert set(output) == {"image", "label", "pred", "loss"}
    assert output["pred"].shape == (2, 2, SIZE, SIZE, SIZE)
    assert not output["pred"].requires_grad
    torch.testing.assert_close(output["label"], batch["label"])
    assert isinstance(output["loss"], float)
    assert network.training
    changed = {name.split(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"image_encoder", "prompt_head", "mask_decoder"}


def test_the_events_of_monais_iteration_are_fired(batch: dict[str, Tensor]) -> None:
    network = small_network()
    engine = trainer(network, batch, InteractiveUpdate(rounds=2))
    fired: list[tuple[Any, set[str], bool]] = []
    for event in IterationEvents:
        engine.add_event_handler(
            event,
            lambda e, name: fired.append(
                (name, set(e.state.output), any(p.grad is not None for p in network.parameters()))
            ),
            event,
        )
    engine.run()
    forward, all_ = {"image", "label", "pred"}, {"image", "label", "pred", "loss"}
    assert fired == [
        (IterationEvents.FORWARD_COMPLETED, forward, False),
        (IterationEvents.LOSS_COMPLETED, all_, False),
        (IterationEvents.BACKWARD_COMPLETED, all_, True),
        (IterationEvents.MODEL_COMPLETED, all_, True),
    ]


def test_the_loss_is_the_mean_over_rounds(batch: dict[str, Tensor]) -> None:
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    wrong = torch.full_like(batch["image"], -1.0)
    engine = trainer(Recorder(), batch, InteractiveUpdate(rounds=3))
    engine.run()
    expected = float(loss(torch.cat([-wrong, wrong], dim=1), batch["label"]))
    assert engine.state.output["loss"] == pytest.approx(expected, rel=1e-5)  # all rounds answer alike


def test_a_round_without_clicks_comes_first(batch: dict[str, Tensor]) -> None:
    network = asked(batch, steps=20, rounds=2, automatic=0.0, automatic_first=True)
    assert network.encoded == 20
    steps = [network.asked[k : k + 3] for k in range(0, 60, 3)]
    assert all(first == (None, None, None) for first, *_ in steps)
    assert all((labels == 1).any(dim=1).all() for _, (_, labels, _), _ in steps)
    seen = [mask for _, (_, _, mask), _ in steps if mask is not None]
    assert 4 <= len(seen) <= 16  # half of them
    assert all(torch.allclose(mask, torch.full_like(mask, -2.0), atol=0.2) for mask in seen)  # logits of that round


def test_the_second_round_corrects_a_deformed_truth(batch: dict[str, Tensor]) -> None:
    network = asked(batch, steps=10, rounds=3, automatic=0.0, deformed=1.0, keep_mask=0.0)
    sizes = []
    for (_, before, nothing), (clicks, labels, mask), _ in zip(*[iter(network.asked)] * 3, strict=True):
        assert nothing is None
        wrong = (mask > 0) != (batch["label"] > 0)
        sizes += [float(item.sum() / truth.sum()) for item, truth in zip(wrong, batch["label"], strict=True)]
        for item in range(2):
            added = int((before[item] >= 0).sum())  # the first click that this round adds
            if not wrong[item].any():
                assert (labels[item, added:] == -1).all()
                continue
            assert labels[item, added] == batch["label"][item, 0][tuple(clicks[item, added].round().long())]
            assert wrong[item, 0][tuple(clicks[item, added].round().long())]
    assert 0.2 < np.mean(sizes) < 3
    assert np.std(sizes) > 0.1
    assert all(asked_for[2] is None for asked_for in network.asked[2::3])


def test_the_image_is_encoded_once_a_step(batch: dict[str, Tensor]) -> None:
    network = asked(batch, steps=3, rounds=4)
    assert network.encoded == 3
    assert len(network.asked) == 12


def test_first_clicks_lie_on_the_lesion(batch: dict[str, Tensor]) -> None:
    network = asked(batch, steps=20, rounds=1, automatic=0.3, single=0.3, max_first=5)
    counts = []
    for clicks, labels, mask in network.asked:
        assert mask is None
        for item in range(2):
            points = clicks[item][labels[item] >= 0].long()
            assert (labels[item][labels[item] >= 0] == 1).all()
            assert all(batch["label"][item, 0, d, h, w] == 1 for d, h, w in points.tolist())
            counts.append(len(points))
    assert set(counts) == {0, 1, 2, 3, 4, 5}  # 40 draws


@pytest.mark.parametrize(
    ("automatic", "single", "allowed"),
    [(1.0, 0.0, {0}), (0.0, 1.0, {1}), (0.0, 0.0, {2, 3, 4})],
)
def test_shares_of_the_first_round(
    batch: dict[str, Tensor], automatic: float, single: float, allowed: set[int]
) -> None:
    network = asked(batch, steps=8, rounds=1, automatic=automatic, single=single, max_first=4)
    assert {int(n) for _, labels, _ in network.asked for n in (labels >= 0).sum(dim=1)} == allowed


def test_automatic_steps_of_one_round_pass_no_clicks(batch: dict[str, Tensor]) -> None:
    network = asked(batch, steps=2, rounds=1, automatic=1.0, single=0.0)
    assert [(tuple(c.shape), tuple(la.shape), m) for c, la, m in network.asked] == [((2, 0, 3), (2, 0), None)] * 2


def test_later_rounds_add_clicks_and_hand_back_the_logits(batch: dict[str, Tensor]) -> None:
    network = asked(batch, rounds=4, keep_mask=1.0, max_added=2)
    counts = [(labels >= 0).sum(dim=1) for _, labels, _ in network.asked]
    for before, after in pairwise(counts):
        assert ((after - before >= 1) & (after - before <= 2)).all()
    assert network.asked[0][2] is None
    for _, _, mask in network.asked[1:]:
        assert mask is not None
        assert not mask.requires_grad
        torch.testing.assert_close(mask, torch.full_like(batch["image"], -2.0))  # lesion minus background
    first, second = network.asked[:2]
    kept = first[1][0] >= 0
    torch.testing.assert_close(second[0][0, : int(kept.sum())], first[0][0, kept])  # those before stay in front


@pytest.mark.parametrize(
    ("answer", "value"),
    [(lambda image: torch.full_like(image, -1.0), 1), (torch.ones_like, 0)],
    ids=["nothing found: on the lesion", "all found: off the lesion"],
)
def test_corrections_lie_in_the_error(batch: dict[str, Tensor], answer: Callable[[Tensor], Tensor], value: int) -> None:
    network = asked(batch, answer, rounds=2, automatic=1.0, single=0.0)
    clicks, labels, _ = network.asked[1]
    for item in range(2):
        points = clicks[item][labels[item] >= 0].round().long()
        assert len(points) >= 1
        assert (labels[item][labels[item] >= 0] == value).all()
        assert all(batch["label"][item, 0, d, h, w] == value for d, h, w in points.tolist())


def test_clicks_of_one_round_go_to_different_errors() -> None:
    two = torch.maximum(ball((8, 8, 8), 4), ball((24, 24, 24), 3))
    pair = {"image": two - 0.5, "label": two}
    rounds = [asked(pair, rounds=2, automatic=1.0, single=0.0, max_added=2, seed=s).asked[1] for s in range(6)]
    both = [clicks[0] for clicks, _, _ in rounds if clicks.shape[1] == 2]
    assert both  # one or two are drawn
    for clicks in both:
        assert clicks[0].mean() < 16 < clicks[1].mean()  # the larger error first, then the other


def test_nothing_is_added_where_nothing_is_wrong(batch: dict[str, Tensor]) -> None:
    truth = batch["label"]
    network = asked(batch, lambda _: 10 * truth - 5, rounds=3, automatic=1.0, single=0.0)
    assert [int((labels >= 0).sum()) for _, labels, _ in network.asked] == [0, 0, 0]


def test_the_mask_is_left_out_where_asked(batch: dict[str, Tensor]) -> None:
    network = asked(batch, rounds=3, keep_mask=0.0)
    assert all(mask is None for _, _, mask in network.asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, r"rounds=0.*at least 1"),
        ({"max_first": 1}, r"max_first=1.*at least 1, 2 and 1"),
        ({"max_added": 0}, r"max_added=0"),
        ({"automatic": 1.2}, r"automatic=1\.2.*between 0 and 1"),
        ({"single": 1.3}, r"single=1\.3.*shares between 0 and 1"),
        ({"keep_mask": -0.1}, r"keep_mask=-0\.1"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InteractiveUpdate(**options)


# --- the published clicks


def test_published_clicks(batch: dict[str, Tensor]) -> None:
    image, label, ((clicks, labels, *others),), kwargs = PublishedClicks(seed=1)(batch)
    torch.testing.assert_close(image, batch["image"])
    torch.testing.assert_close(label, batch["label"])
    assert kwargs == {}
    assert others == [None] * 3
    assert clicks.shape == (2, 30, 3)
    assert (labels == 1).all()  # the published network knows no labels
    for item in range(2):
        on = [bool(batch["label"][item, 0, d, h, w]) for d, h, w in clicks[item].long().tolist()]
        assert all(on[:10])
        assert not all(on[10:])  # the lesion fills a few percent
    assert clicks.min() >= -0.5
    assert clicks.max() <= SIZE - 0.5
    again = PublishedClicks(seed=1)(batch)[2][0].points
    torch.testing.assert_close(clicks, again)
    assert not torch.equal(clicks, PublishedClicks(seed=2)(batch)[2][0].points)


def test_published_clicks_on_an_empty_crop(batch: dict[str, Tensor]) -> None:
    mixed = {"image": batch["image"], "label": batch["label"] * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1, 1)}
    clicks, labels, *_ = PublishedClicks(10, 20)(mixed)[2][0]
    assert clicks.shape == (2, 30, 3)
    assert (labels >= 0).sum(dim=1).tolist() == [30, 20]


@pytest.mark.parametrize(("lesion", "stray"), [(10, 0), (1, 0), (0, 5), (0, 0)])
def test_numbers_of_published_clicks(batch: dict[str, Tensor], lesion: int, stray: int) -> None:
    clicks, labels, *_ = PublishedClicks(lesion, stray)(batch)[2][0]
    assert clicks.shape == (2, lesion + stray, 3)
    assert (labels == 1).all()


def test_published_clicks_of_an_unknown_user() -> None:
    with pytest.raises(ValueError, match="nobody"):
        PublishedClicks(policy="nobody")


def test_published_clicks_of_a_user_who_answers_predictions() -> None:
    with pytest.raises(ValueError, match=r"policy='iterative' corrects a prediction, .* expected one of random, stray"):
        PublishedClicks(policy="iterative")


# --- gradients clipped by part


class Parts(nn.Module):
    """Three parts whose gradients are ten, a tenth and none."""

    def __init__(self) -> None:
        super().__init__()
        self.loud, self.quiet, self.still = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False), nn.Linear(4, 1)

    def give(self) -> None:
        for part, norm in ((self.loud, 10.0), (self.quiet, 0.1)):
            part.weight.grad = torch.full_like(part.weight, norm / 2)  # of four equal values

    def norms(self) -> list[float]:
        return [float(part.weight.grad.norm()) for part in (self.loud, self.quiet)]


@pytest.mark.parametrize(("limit", "expected"), [(1.0, [1.0, 0.1]), (0.05, [0.05, 0.05]), (20.0, [10.0, 0.1])])
def test_each_part_is_clipped_by_itself(limit: float, expected: list[float]) -> None:
    network = Parts()
    network.give()
    ClipGradientsByPart(network, limit)()
    assert network.norms() == pytest.approx(expected, rel=1e-4)
    assert network.still.weight.grad is None


def test_clipping_before_an_optimiser_steps() -> None:
    network = Parts()
    before = network.loud.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    assert ClipGradientsByPart.on(optimizer, network) is optimizer
    network.give()
    optimizer.step()
    assert network.norms() == pytest.approx([1.0, 0.1], rel=1e-4)
    assert float((network.loud.weight - before).detach().norm()) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("limit", [0.0, -1.0])
def test_bad_limit(limit: float) -> None:
    with pytest.raises(ValueError, match=f"max_norm={limit}.*positive"):
        ClipGradientsByPart(Parts(), limit)
