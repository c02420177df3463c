"""Modules that remember the arguments they were made with."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, TypeVar

from torch import nn

__all__ = ["KeepsArguments"]

_Module = TypeVar("_Module", bound="KeepsArguments")


class KeepsArguments(nn.Module):
    """A module that can say how to make it anew; subclasses do nothing for it.

    Weights do not say what computes with them: a window's side or a number of heads leaves no trace in their shapes.
    So a checkpoint stores the arguments of the network's parts beside the tensors.
    """

    free_arguments: ClassVar[frozenset[str]] = frozenset()
    """Arguments that are not stored: whatever they are, the same weights compute the same at inference."""

    def __new__(cls: type[_Module], *args: Any, **kwargs: Any) -> _Module:
        """Bind the constructor's arguments to their names, defaults included."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:
            return self  # the constructor says what is wrong; a copy brings the arguments along
        bound.apply_defaults()
        self.__dict__["_arguments"] = dict(list(bound.arguments.items())[1:])
        return self

    def stored_arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name, without modules and `free_arguments`."""
        return {
            name: value
            for name, value in self.__dict__["_arguments"].items()
            if name not in self.free_arguments and not isinstance(value, nn.Module)
        }
