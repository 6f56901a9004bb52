"""The strict pydantic base of all recipes."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema


class Strict(BaseModel):
    """Immutable; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Describe each key in the JSON Schema with its line of the class's docstring."""
        schema = handler(core_schema)
        section = handler.resolve_ref_schema(schema)
        summary, _, attributes = inspect.cleandoc(cls.__doc__ or "").partition("\n\nAttributes:\n")
        section["description"] = summary
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
            section["properties"][name]["description"] = " ".join(text.split())
        return schema


Number = Annotated[float, Field(strict=True)]
"""A finite number; text is not taken for one."""

Natural = Annotated[int, Field(strict=True, ge=0)]
"""0, 1, 2, …; neither text nor `1.0` is taken for one."""

Positive = Annotated[int, Field(strict=True, gt=0)]
"""1, 2, 3, …; neither text nor `1.0` is taken for one."""

Seed = Annotated[Natural, Field(lt=2**32)]
"""What random numbers are drawn from; numpy takes no larger one."""

Flag = Annotated[bool, Field(strict=True)]
"""`true` or `false`; `yes`, `no`, 1 and 0 are not taken for one."""

Text = Annotated[str, Field(min_length=1)]
"""Text that says something."""
