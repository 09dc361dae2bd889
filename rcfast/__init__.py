"""rcfast: majority votes over a region around an input, made fast, and what they are worth.

from rcfast import RegionClassifier, learn_length
r = learn_length(model, x_validation, y_validation).r
labels = RegionClassifier(model, r).predict(x)
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "RegionClassifier": "classifier",
    "Votes": "classifier",
    "learn_length": "calibration",
    "LengthSearch": "calibration",
    "Cube": "regions",
    "Decoded": "regions",
    "Certificates": "certificates",
    "certify": "certificates",
    "Gaussian": "regions",
    "L1Ball": "regions",
    "L2Ball": "regions",
    "Laplace": "regions",
    "Sphere": "regions",
    "Subspace": "regions",
}
_MODULES = (
    "attacks",
    "certificates",
    "data",
    "eval",
    "models",
    "ops",
    "reference",
    "regions",
    "stopping",
    "training",
)
__all__ = [*_NAMES, *_MODULES]

if TYPE_CHECKING:
    from . import attacks as attacks
    from . import certificates as certificates
    from . import data as data
    from . import models as models
    from . import ops as ops
    from . import reference as reference
    from . import regions as regions
    from . import stopping as stopping
    from . import training as training
    from .calibration import LengthSearch as LengthSearch
    from .calibration import learn_length as learn_length
    from .certificates import Certificates as Certificates
    from .certificates import certify as certify
    from .classifier import RegionClassifier as RegionClassifier
    from .classifier import Votes as Votes
    from .regions import Cube as Cube
    from .regions import Decoded as Decoded
    from .regions import Gaussian as Gaussian
    from .regions import L1Ball as L1Ball
    from .regions import L2Ball as L2Ball
    from .regions import Laplace as Laplace
    from .regions import Sphere as Sphere
    from .regions import Subspace as Subspace


def __getattr__(name: str) -> Any:
    """Modules are imported when first used: `python -m rcfast.info` should not pay for the attacks."""
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'rcfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
