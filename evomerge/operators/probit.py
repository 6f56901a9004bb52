"""From uniform to normal numbers with the four operations alone.

What a machine's logarithm, cosine and even square root give differs in the last bit between
libraries, and between a loop and its compiled form. Additions, multiplications and divisions do
not, nor does the splitting of a number into mantissa and exponent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# The normal quantile over its argument, as a function of w in [0, 6] and [6, 17], moved to
# [-1, 1]: coefficients of rising powers, fitted at Chebyshev points; relative error below 1e-6.
_CENTRE = (
    2.2960355, 1.0251563, -0.073050263, -0.032000369,
    0.022442345, -0.0041104055, -0.0020241508, 0.0010441488,
)  # fmt: skip
_TAILS = (
    4.5620959, 1.1543755, -0.13420582, 0.030061669,
    -0.0082289305, 0.0022084961, 0.00010761445, -0.00036660346,
)  # fmt: skip


def probit(uniform: Tensor) -> Tensor:
    """Turn uniform into standard normal numbers: the quantile of the normal distribution.

    The form is that of Giles, "Approximating the erfinv function", 2012.

    Args:
        uniform: Multiples of 2^-24 in [0, 1), float32, any shape.

    Returns:
        The quantiles at `uniform + 2^-25`, the middles of their steps; between -5.42 and 5.42,
        float32, the shape of `uniform`.
    """
    x = 2 * uniform - 1 + 2.0**-24
    w = -_log((1 - x) * (1 + x))
    return x * torch.where(w < 6, _sum(_CENTRE, w / 3 - 1), _sum(_TAILS, (w - 11.5) / 5.5))


def _log(number: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(number)
    # Mantissas lie in [1/2, 1), and y around 0: log m = log c + 2 artanh y.
    c = math.sqrt(0.5)
    y = (mantissa - c) / (mantissa + c)
    artanh = y * _sum((1, 1 / 3, 1 / 5, 1 / 7), y * y)
    return (exponent.to(number.dtype) - 0.5) * math.log(2) + 2 * artanh


def _sum(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
