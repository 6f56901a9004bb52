"""One model as it is, or scaled.

The method of that name of mergekit (Goddard et al., "Arcee's MergeKit", 2024,
https://arxiv.org/abs/2403.13257); with scales by tensor it turns parts of a model up or down.
"""

from __future__ import annotations

from torch import Tensor

from evomerge.operators.parameters import Scales
from evomerge.operators.registry import operator


@operator(space="weight", elementwise=True, sources=(1, 1))
def passthrough(tensors: Tensor, *, scale: Scales = (1.0,)) -> Tensor:
    """Take the only source, each entry times the scale.

    Args:
        tensors: One parameter of the source, shape `(1, *S)`, floating point.
        scale: Factor on every entry, length 1.

    Returns:
        Shape `(*S,)`, the dtype of `tensors`.
    """
    return tensors[0] * scale[0]
