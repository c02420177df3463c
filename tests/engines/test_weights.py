"""The weights that an evaluation starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from adapters.engines import WeightsLoader


def test_weights_are_there_when_the_engine_starts(tmp_path: Path) -> None:
    network, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    engine = Engine(lambda *_: None)
    WeightsLoader(tmp_path / "model.pt", other).attach(engine)
    engine.run([0])
    assert torch.equal(other.weight, network.weight)
    (tmp_path / "model.pt").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"model\.pt is a web page that was saved in place of the file"):
        engine.run([0])
