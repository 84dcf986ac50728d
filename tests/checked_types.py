"""The check of types under pytest, at a fraction of its cost: jaxtyping is asked only where there are shapes.

jaxtyping wraps every function of `hdb`, and at every call it looks at all arguments, so that each name of a size has
one meaning. A function without shapes in its signature has no sizes to compare, and is checked by beartype alone.
To be imported before anything of `hdb`.
"""

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

check_shapes = jaxtyping.jaxtyped
check_without_shapes = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def has_shapes(function: Any) -> bool:
    """Whether an annotation holds one of jaxtyping. One that is still text may."""
    annotations = getattr(function, "__annotations__", {}).values()
    return any("[" in hint if isinstance(hint, str) else "jaxtyping" in repr(hint) for hint in annotations)


def check_types(target: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """The decorator that jaxtyping's import hook puts onto every function and class."""
    if target is None:
        return partial(check_types, typechecker=typechecker)
    if not isinstance(target, type):
        return check_shapes(target, typechecker=typechecker) if has_shapes(target) else check_without_shapes(target)
    if is_dataclass(target) and "__init__" in vars(target):
        target.__init__ = check_types(target.__init__, typechecker=typechecker)
    return target


jaxtyping.jaxtyped = check_types
