"""What a reader is told beside the numbers: with what they were measured, and where they would mislead."""

import json

import torch

from rcfast import ops
from rcfast.eval import environment


def test_the_environment_says_what_decides_bits_and_speed() -> None:
    found = environment.describe(torch.device("cpu"))
    assert found["instruction_set"] == ops.build_info()["instruction_set"]
    assert found["torch_instruction_set"] == torch.backends.cpu.get_cpu_capability()
    assert found["torch"] == torch.__version__
    for name in ("rcfast", "python", "torchvision", "numpy", "scikit-learn", "system", "processor"):
        assert isinstance(found[name], str), name
    assert found == json.loads(json.dumps(found)) == environment.describe(torch.device("cpu"))
