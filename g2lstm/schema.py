"""What an option may be: pydantic checks types and ranges; a mistake is one line that names the option and the way out.

A section of options is a dataclass made by `section`; one check reads what a command line composed and what a run wrote.
"""

import dataclasses
import json
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from g2lstm import engines
from g2lstm.errors import UserError

Section = TypeVar("Section")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[Section]) -> type[Section]:
    """Makes a class a frozen dataclass of checked options."""
    # Strict: a text is no number and true is not 1. What nobody declared is refused.
    make: Any = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
    return make(cls)


def values_of(section: Any) -> dict[str, Any]:
    """A section as plain dictionaries, by the names of its attributes."""
    return dataclasses.asdict(section)


def names_of(schema: Any) -> set[str]:
    """The options of a section."""
    return {field.name for field in dataclasses.fields(schema)}


Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _engine(name: str) -> str:
    engines.check_name(name)
    return name


EngineName = Annotated[str, AfterValidator(_engine)]
# A folder may be called 2024.
Folder = Annotated[str, BeforeValidator(lambda value: f"{value}" if type(value) in (int, float) else value)]

_adapter: Any = cache(TypeAdapter)
_SAYS = {
    **dict.fromkeys(("int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dataclass_type", "dataclass_exact_type"), "a section of options"),
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "too_short": "{min_length} values",
    "too_long": "{max_length} values",
    "finite_number": "finite",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "literal_error": "one of {expected}",
}


def checked(values: Any, schema: type[Section], *, where: str = "") -> Section:
    """Plain dictionaries and lists as an instance of their schema, a `section`; `where` names the file they come from.

    Raises:
        UserError: an option is unknown, missing, of another type or out of range; the first of them.
    """
    try:
        # Where strict, only JSON turns dictionaries into sections.
        return _adapter(schema).validate_json(json.dumps(values))
    except ValidationError as error:
        # Of the alternatives of "a number or null", the one about the number tells more.
        found = sorted(error.errors(), key=lambda one: one["type"] == "none_required")[0]
        raise UserError((f"{where}: " if where else "") + _line(found)) from None


def _line(found: Any) -> str:
    key = ".".join(str(part) for part in found["loc"])
    if found["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"there is no option {key}"
    if found["type"] == "missing" and isinstance(found["loc"][-1], int):  # a list that is too short
        return f"{key.rpartition('.')[0]} has too few values, got {found['input']!r}: add the others"
    if found["type"] == "missing":
        return f"{key} is needed: add {key}=..."
    if found["type"] == "value_error":  # of a section's own check
        return str(found["ctx"]["error"])
    context = {
        name: f"{value:g}" if isinstance(value, float) else str(value).replace("'", "").replace(" or ", ", ")
        for name, value in found.get("ctx", {}).items()
    }
    says = _SAYS.get(found["type"], found["msg"].removeprefix("Input should be ")).format(**context)
    return f"{key} must be {says}, got {found['input']!r}"
