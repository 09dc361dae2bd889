"""What a result was measured with: versions, processor, instruction sets, device."""

from typing import Any

import torch

from rcfast import info


def describe(device: torch.device) -> dict[str, Any]:
    """Return versions, hardware and threads, JSON-able and the same in every run on one machine."""
    facts = info.environment()
    found: dict[str, Any] = {
        "rcfast": facts["rcfast"],
        "python": facts["python"],
        "torch": str(torch.__version__),  # with its build, such as +cu130, which the package's version lacks
        **{name: facts["packages"][name] for name in ("torchvision", "numpy", "scikit-learn")},
        "system": facts["platform"],
        "processor": facts["cpu"],
        "cores": facts["cores"],
        "threads": facts["threads"],
        "instruction_set": facts["native"].get("instruction_set"),
        "torch_instruction_set": facts["torch_cpu_capability"],
        "device": str(device),
        "auto_precision": info.precision(device),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found
