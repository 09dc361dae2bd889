"""What a reader is told beside the numbers: with what they were measured, and where they would mislead."""

import json
from typing import Any

import pytest
import torch

from rcfast import ops
from rcfast.eval.outputs.cautions import FEW, cautions
from rcfast.eval.run import environment
from rcfast.eval.run.settings import build


def test_the_environment_says_what_decides_bits_and_speed() -> None:
    found = environment.describe(torch.device("cpu"))
    assert found["instruction_set"] == ops.build_info()["instruction_set"]
    assert found["torch_instruction_set"] == torch.backends.cpu.get_cpu_capability()
    assert found["torch"] == torch.__version__
    for name in ("rcfast", "python", "torchvision", "numpy", "scikit-learn", "system", "processor"):
        assert isinstance(found[name], str), name
    assert found == json.loads(json.dumps(found)) == environment.describe(torch.device("cpu"))


def row(group: str, attack: str, success: int, n: int = 100, **more: Any) -> dict[str, Any]:
    base = {"group": group, "attack": attack, "success": success, "n": n, "defence": "point"}
    return {**base, "reading": "model", "parameter": None, **more}


def told(
    *attacks: dict[str, Any],
    drawn: int = FEW,
    networks: tuple[str, ...] = ("point",),
    settings: tuple[str, ...] = (),
    **length: Any,
) -> list[str]:
    """Return the warnings of a run with these rows."""
    config = build("quick", settings=settings).as_dict()
    results: Any = {"config": config, "attacks": list(attacks)}
    if length:
        results["length"] = {"learnt": True, **length}
    return list(cautions(results, drawn=drawn, networks=networks))


@pytest.mark.parametrize(
    ("shown", "seeds", "drawn", "said"),
    [
        ({"worst": [{}]}, [0], FEW, ["one vote seed alone"]),
        ({"worst": [{}]}, [0, 1], FEW, []),
        ({"worst": [{}]}, [0, 1], 5, ["few examples: with 5 examples"]),
        ({"vote_attacks": [{}]}, [0], FEW, []),  # judged by seeds of its own
        ({"vote_attacks": [{}]}, [0], 5, ["few examples: with 5 examples"]),
        ({"compared": [{}]}, [0], FEW, ["one vote seed alone"]),
        ({}, [0], 5, []),
    ],
)
def test_warnings_without_a_table_of_attacks(
    shown: dict[str, Any], seeds: list[int], drawn: int, said: list[str]
) -> None:
    config = build("quick", settings=[f"vote.seeds={seeds}"]).as_dict()
    results: Any = {"config": config, "attacks": [], "defences": ["point", "region"], **shown}
    if "compared" in shown:
        results["defences"] = ["point"]
    found = list(cautions(results, drawn=drawn, networks=("point",)))
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))


NETWORKS = ("point", "distillation", "mine")
NEVER = "never successful on the undefended network, so that the rows say nothing: "
SELDOM = "successful on the undefended network in less than half of the cases: "


@pytest.mark.parametrize(
    ("attacks", "warnings"),
    [
        ([], []),
        ([row("targeted", "T-FGSM", 100)], []),
        ([row("targeted", "T-FGSM", 50)], []),
        ([row("targeted", "T-FGSM", 49)], [f"{SELDOM}T-FGSM (49%)"]),
        ([row("targeted", "T-FGSM", 0)], [f"{NEVER}T-FGSM"]),
        ([row("targeted", "T-FGSM", 0, n=0)], []),
        ([row("untargeted", "DeepFool", 0), row("untargeted", "U-FGSM", 0)], [f"{NEVER}DeepFool, U-FGSM"]),
        ([row("untargeted", "U-JSMA", 1)], [f"{SELDOM}U-JSMA (1%)"]),
        ([row("confidence", "T-CW-L2", 0, parameter=20.0)], [f"{NEVER}T-CW-L2 at k = 20"]),
        ([row("confidence", "U-CW-L2", 30, parameter=2.5)], [f"{SELDOM}U-CW-L2 at k = 2.5 (30%)"]),
        # Once, not twice: k = 0 is T-CW-L2 itself.
        (
            [row("targeted", "T-CW-L2", 0), row("confidence", "T-CW-L2", 0, parameter=0.0)],
            [f"{NEVER}T-CW-L2"],
        ),
        (
            [row("targeted", "T-FGSM", 10), row("targeted", "T-CW-L2", 0), row("untargeted", "U-FGSM", 40)],
            [f"{NEVER}T-CW-L2", f"{SELDOM}T-FGSM (10%), U-FGSM (40%)"],
        ),
        # That an attack fails against a defence is a result, and the other reading would say it twice.
        ([row("targeted", "T-FGSM", 0, defence="region")], []),
        ([row("targeted", "T-FGSM", 0, reading="defence")], []),
        ([row("combined", "T-CA-L0", 0), row("adapted", "T-CW-L2-A", 0, parameter=1.0)], []),
    ],
)
def test_attacks_that_fail_without_a_defence(attacks: list[dict[str, Any]], warnings: list[str]) -> None:
    assert told(*attacks) == warnings


ZERO = "r is 0: the region-based classifier is the undefended network"
END = "accuracy was lost at no length that was tried: r = {} is where the search ends (length.r_max = {})"


@pytest.mark.parametrize(
    ("r", "settings", "learnt", "warnings"),
    [
        (0.2, ["length.r_max=0.3"], True, []),
        (0.29, ["length.r_max=0.3"], True, []),  # 0.3 was tried, and lost accuracy
        (0.3, ["length.r_max=0.3"], True, [END.format(0.3, 0.3)]),
        (0.3, ["length.r_max=0.3"], False, []),
        (
            0.3,
            ["length.r_max=0.32", "length.step=0.1"],
            True,
            [END.format(0.3, 0.32)],
        ),  # the last on the grid
        (1.0, [], True, [END.format(1, 1)]),
        (0.0, [], True, [ZERO]),
        (0.0, [], False, [ZERO]),
        (0.0, ["length.r_max=0"], True, [ZERO]),
        (0.0, ['defences=["point"]'], True, []),
    ],
)
def test_lengths_that_the_search_has_decided(
    r: float, settings: list[str], learnt: bool, warnings: list[str]
) -> None:
    assert told(settings=tuple(settings), r=r, learnt=learnt) == warnings


@pytest.mark.parametrize(
    ("drawn", "attacked", "expected"), [(FEW - 1, True, 1), (FEW, True, 0), (1, False, 0), (1, True, 1)]
)
def test_too_few_examples(drawn: int, attacked: bool, expected: int) -> None:
    found = told(*([row("targeted", "T-FGSM", 90)] if attacked else []), drawn=drawn)
    assert len(found) == expected
    assert not found or found[0].startswith(f"few examples: with {drawn} examples an untargeted rate of 0 is")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ([], "CA-L2 on distillation, mine combines k = 0 only"),
        (['attacks.confidence_models=["point","distillation"]'], "CA-L2 on mine combines"),
        (['attacks.confidence_models=["point","distillation","user"]'], None),
        (["attacks.confidence_models=[]"], "CA-L2 on point, distillation, mine combines"),
        (["attacks.confidences=[]"], None),
    ],
)
def test_combined_attacks_without_their_confidences(settings: list[str], named: str | None) -> None:
    # "mine" is the network of a user's defence.
    combined = row("combined", "T-CA-L2", 90)
    found = told(combined, networks=NETWORKS, settings=tuple(settings))
    assert [text.startswith(named or "") for text in found] == [True] * (named is not None)
    assert told(row("targeted", "T-CW-L2", 90), networks=NETWORKS) == []
