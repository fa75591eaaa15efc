"""Small parts named in a config as they would be called: 'ddim(eta=0.5)', 'shifted(base=cosine(), resolution=128)'."""

import ast
import inspect
from typing import Any, NamedTuple


class Call(NamedTuple):
    """A name and its keyword arguments. Hashable, so that it can be fixed in a compiled program."""

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def split(self) -> tuple["Call", dict[str, float]]:
        """What is fixed in a program, and the floats, which are traced: a sweep over them compiles once."""
        fixed = tuple((key, value) for key, value in self.arguments if not isinstance(value, float))
        return self._replace(arguments=fixed), {k: v for k, v in self.arguments if isinstance(v, float)}


def parse_call(text: str, key: str) -> Call:
    """'ddim(eta=0.5)' or 'ddim' -> Call. Raises ValueError for anything but a name and literal keyword arguments.

    An argument may itself be a call, of a part from the same table.
    """
    try:
        return _call(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, AttributeError):
        raise ValueError(f"{key}={text!r} is not of the form name or name(key=value, ...)") from None


def _call(node: ast.AST) -> Call:
    if isinstance(node, ast.Name):
        return Call(node.id)
    if node.args:
        raise ValueError("positional argument")
    return Call(node.func.id, tuple((word.arg, _value(word.value)) for word in node.keywords))


def _value(node: ast.AST):
    return _call(node) if isinstance(node, ast.Call | ast.Name) else ast.literal_eval(node)


def choose(table: dict, name: str, key: str):
    if name not in table:
        raise ValueError(f"{key}={name!r} is unknown; choose from {', '.join(sorted(table))}")
    return table[name]


def construct(table: dict, call: Call, key: str, *given, **more):
    """table[call.name](*given, **arguments, **more); a wrong name or argument is a ValueError that says what is."""
    builder = choose(table, call.name, key)
    if taken := dict(call.arguments).keys() & more.keys():
        raise ValueError(f"{key}: {call.name}: {', '.join(taken)} follows from the rest of the config; leave it out")
    arguments = {k: construct(table, v, key) if isinstance(v, Call) else v for k, v in call.arguments} | more
    signature = inspect.signature(builder)
    try:
        signature.bind(*given, **arguments)
    except TypeError as error:
        taken = [name for name in list(signature.parameters)[len(given) :] if name not in more]
        raise ValueError(f"{key}: {call.name}: {error}; it takes {', '.join(taken) or 'no arguments'}") from None
    try:
        return builder(*given, **arguments)
    except (TypeError, ValueError, ArithmeticError, AttributeError, IndexError) as error:
        raise ValueError(f"{key}: {call.name}: {error}") from error


def named(table: dict, text: str, key: str, *given):
    """What a config's text names in a table, constructed."""
    return construct(table, parse_call(text, key), key, *given)
