"""The operators ``torch.ops.rcfast.*``: schemas, fakes, CPU and CUDA kernels; the only user of ``data_ptr``.

Operators write in place and return None, never allocate on the device and never synchronise, so that CUDA
graphs can capture them. They check shapes, dtypes and devices; values (x in [0,1], no NaN) are the caller's
promise, for looking at them would cost a synchronisation: :class:`rcfast.RegionClassifier` checks them once per
call.
"""

from .conv3x3 import CONV_FEW, CONV_FILTERS, conv3x3_
from .judging import GOES_ON, INCOMPLETE, STOPPED, judge_
from .native import build_info
from .saliency import saliency_pair
from .sampling import sample_hypercube_, sample_noise_
from .voting import MAX_SEGMENTS, UNITS, distance_, vote_, vote_soft_

__all__ = [
    "CONV_FEW",
    "CONV_FILTERS",
    "GOES_ON",
    "INCOMPLETE",
    "MAX_SEGMENTS",
    "STOPPED",
    "UNITS",
    "build_info",
    "conv3x3_",
    "distance_",
    "judge_",
    "saliency_pair",
    "sample_hypercube_",
    "sample_noise_",
    "vote_",
    "vote_soft_",
]
