"""The strict pydantic base of all recipes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Immutable; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )


Number = Annotated[float, Field(strict=True)]
"""A finite number; text is not taken for one."""

Natural = Annotated[int, Field(strict=True, ge=0)]
"""0, 1, 2, …; neither text nor `1.0` is taken for one."""

Positive = Annotated[int, Field(strict=True, gt=0)]
"""1, 2, 3, …; neither text nor `1.0` is taken for one."""

Flag = Annotated[bool, Field(strict=True)]
"""`true` or `false`; `yes`, `no`, 1 and 0 are not taken for one."""

Text = Annotated[str, Field(min_length=1)]
"""Text that says something."""
