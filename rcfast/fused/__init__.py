"""Networks whose 3×3 convolutions run on our own kernel."""

from rcfast.fused.block import FusedBlock
from rcfast.fused.conv import FusedConv
from rcfast.fused.layers import is_exactly
from rcfast.fused.network import Fused, fused

__all__ = ["Fused", "FusedBlock", "FusedConv", "fused", "is_exactly"]
