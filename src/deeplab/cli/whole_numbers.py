"""What every group of commands has: whole numbers are to be given as such, where Cyclopts rounds 1.5 to 2."""

from __future__ import annotations

from typing import Any, get_args

from cyclopts import ArgumentCollection, CoercionError, Group


def refuse_fractions(arguments: ArgumentCollection) -> None:
    """See that whole numbers are given as such.

    Raises:
        CoercionError: one is not, told as other values that are no numbers are.
    """

    def kinds(hint: Any) -> set[Any]:
        return {hint}.union(*map(kinds, get_args(hint)))

    for argument in arguments:
        hints = kinds(argument.hint)
        for token in argument.tokens if int in hints and float not in hints else ():
            if "." in token.value:
                raise CoercionError(argument=argument, token=token, target_type=int)


ARGUMENTS, PARAMETERS = (Group(name, validator=refuse_fractions) for name in ("Arguments", "Parameters"))
