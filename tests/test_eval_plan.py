"""Plans: which units of work the wanted outputs need; nothing else is run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rcfast.eval import cli, outputs
from rcfast.eval.evaluation import plan, prepare
from rcfast.eval.run.attack import Case, NetworkAttack, batch_of
from rcfast.eval.run.config import ConfigError
from rcfast.eval.run.context import Context
from rcfast.eval.run.labels import AdversarialLabels, BenignLabels
from rcfast.eval.run.length import LearntLength
from rcfast.eval.run.networks import TrainedNetwork
from rcfast.eval.run.progress import Progress
from rcfast.eval.run.settings import build
from rcfast.eval.run.store import Store
from rcfast.eval.run.unit import Unit


class Planned:
    """The units that some outputs need."""

    def __init__(self, folder: Path, *names: str, settings: tuple[str, ...] = ()) -> None:
        chosen = [outputs.get(name) for name in names or outputs.NAMES]
        config = build("quick", settings=settings)
        self.ctx: Context = prepare(config, folder, chosen, Store(folder, readonly=True), Progress("quiet"))
        self.units: list[Unit] = plan(self.ctx, chosen)
        self.attacks = [unit for unit in self.units if isinstance(unit, NetworkAttack)]
        self.cases = {unit.case for unit in self.attacks}
        self.networks = [unit.name for unit in self.units if isinstance(unit, TrainedNetwork)]
        self.labels = [unit for unit in self.units if isinstance(unit, AdversarialLabels)]
        self.benign = [unit for unit in self.units if isinstance(unit, BenignLabels)]


def test_only_what_an_output_needs_is_planned(tmp_path: Path) -> None:
    table4 = Planned(tmp_path, "table4")
    targeted = {"T-JSMA", "T-CW-L0", "T-FGSM", "T-IGSM", "T-CW-Linf", "T-CW-L2"}
    assert {case.attack for case in table4.cases} == targeted
    assert {case.network for case in table4.cases} == {"point", "adversarial", "distillation"}
    assert not any(case.confidence for case in table4.cases)
    assert not table4.benign
    assert LearntLength() in table4.units

    assert Planned(tmp_path, "table2").units == []
    assert Planned(tmp_path, "table3").networks == ["point", "adversarial", "distillation"]

    figure1 = Planned(tmp_path, "figure1")
    assert figure1.cases == {Case("point", "T-CW-L2")}
    assert {unit.judge for unit in figure1.labels} == {"point"}
    assert LearntLength() not in figure1.units

    figure8 = Planned(tmp_path, "figure8")
    assert {case.attack for case in figure8.cases} == {"T-CW-L0", "T-CW-L2", "T-CW-Linf"}
    assert {unit.alpha for unit in figure8.labels} == set(figure8.ctx.config.attacks.alphas)

    assert len(Planned(tmp_path, "figure2").attacks) == 3  # one block of three attacks
    confidences = {case.confidence for case in Planned(tmp_path, "figure6").cases}
    assert confidences == set(figure8.ctx.config.attacks.confidences)


def test_networks_and_attacks_left_out_are_not_run(tmp_path: Path) -> None:
    few = ('defences=["point","region"]', 'attacks.names=["T-FGSM"]')
    planned = Planned(tmp_path, settings=few)
    assert planned.cases == {Case("point", "T-FGSM"), Case("point", "T-RegionCW")}
    planned = Planned(tmp_path, settings=(*few, "attacks.vote=[]"))
    assert planned.networks == ["point"]
    assert planned.cases == {Case("point", "T-FGSM")}


def test_what_is_needed_comes_first_and_nothing_twice(tmp_path: Path) -> None:
    planned = Planned(tmp_path)
    place = {unit: index for index, unit in enumerate(planned.units)}
    assert len(place) == len(planned.units) > 150
    for unit in planned.units:
        assert all(place[needed] < place[unit] for needed in unit.needs(planned.ctx)), unit
    stages = [unit.stage for unit in planned.units]
    assert stages == sorted(stages, key=["train", "attack", "vote", "check"].index)


def test_only_is_checked() -> None:
    assert cli.parse_only(None) == outputs.names()
    assert cli.parse_only(" figure8,TABLE4 ") == ("table4", "figure8")
    for text in ("table9", "", "figure3"):
        with pytest.raises(ConfigError, match="--only"):
            cli.parse_only(text)


@pytest.mark.parametrize(
    ("device", "side", "rows"), [("cpu", 28, 256), ("cuda", 28, 1024), ("cuda", 224, 27), ("cpu", 224, 27)]
)
def test_a_gpu_attacks_more_rows_at_once(device: str, side: int, rows: int) -> None:
    shape = (1 if side == 28 else 3, side, side)
    ctx: Any = SimpleNamespace(device=torch.device(device), dataset=SimpleNamespace(shape=shape))
    assert batch_of(ctx) == rows
