"""Evaluate rules in CEL on typed values. It knows the part of CEL that most rules need; others have a Python function beside their CEL."""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final

from pydantic.alias_generators import to_snake

Variables = Mapping[str, Any]
Evaluator = Callable[[Variables], Any]

_TOKEN: Final = re.compile(r"'[^']*'|\|\||&&|!(?!=)")
# Python parses `~` with the precedence that `!` has in CEL, above all comparisons.
_PYTHON_OPERATORS: Final = {"||": " or ", "&&": " and ", "!": "~"}
_COMPARISONS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
}
_PATTERN_PART: Final = re.compile(r"\\.|\[[^\]]+\]|\$")


def _matches(text: str, pattern: str) -> bool:
    return _compile_pattern(pattern).search(text) is not None


@cache
def _compile_pattern(pattern: str) -> re.Pattern[str]:
    # Unlike in Python, `$` does not match before a newline at the end.
    return re.compile(_PATTERN_PART.sub(lambda match: r"\Z" if match[0] == "$" else match[0], pattern), re.ASCII)


_METHODS: Final[Mapping[str, Callable[..., Any]]] = {
    "size": len,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": operator.contains,
    "matches": _matches,
    "sum": sum,
}
_MACROS: Final[Mapping[str, Callable[[Iterable[Any], list[Any]], Any]]] = {
    "all": lambda _, results: all(results),
    "exists": lambda _, results: any(results),
    "exists_one": lambda _, results: sum(results) == 1,
    "filter": lambda items, results: [item for item, is_kept in zip(items, results, strict=True) if is_kept],
    "map": lambda _, results: results,
}
"""By name: a function of the items of a list, or the keys of a map, and of the results of the macro's expression for each."""


@cache
def compile_rule(cel: str) -> Callable[[Any], bool]:
    """Return a function that evaluates an expression on the value of `self`. It finds fields by their JSON names.

    `has` means that a field is not None, so a field with another default is always there. A guard stands first: `||` and `&&` evaluate
    from the left, and other than in CEL, an error of the left side is not made up for by the right one.
    Raises ValueError if the expression contains more than tests of fields and lists, joined by `||`, `&&` and `!`.
    """
    python = _TOKEN.sub(lambda match: _PYTHON_OPERATORS.get(match[0], match[0]), cel)
    try:
        evaluate = _compile(ast.parse(python.strip(), mode="eval").body)
    except (SyntaxError, KeyError) as error:
        raise ValueError(f"{cel}: found {error}; expected only tests of fields and lists") from error
    return lambda value: bool(evaluate({"self": value}))


def _compile(node: ast.expr) -> Evaluator:
    match node:
        case ast.BoolOp(op, operands):
            parts, join = [_compile(each) for each in operands], any if isinstance(op, ast.Or) else all
            return lambda variables: join(part(variables) for part in parts)
        case ast.UnaryOp(ast.Invert(), operand):
            return _compile_call(operator.not_, operand)
        case ast.Compare(left, [comparison], [right]):
            return _compile_call(_COMPARISONS[type(comparison)], left, right)
        case ast.BinOp(left, ast.Add(), right):
            return _compile_call(operator.add, left, right)
        case ast.Subscript(items, key):
            return _compile_call(operator.getitem, items, key)
    return _compile_value(node)


def _compile_value(node: ast.expr) -> Evaluator:
    match node:
        case ast.Call(ast.Name("has"), [field]):
            return _compile_call(lambda value: value is not None, field)
        case ast.Call(ast.Attribute(target, name), [ast.Name(variable), expression]):
            return _compile_macro(_MACROS[name], _compile(target), variable, _compile(expression))
        case ast.Call(ast.Attribute(target, name), arguments):
            return _compile_call(_METHODS[name], target, *arguments)
        case ast.Attribute(target, name):
            return _compile_call(operator.attrgetter(to_snake(name.strip("_"))), target)
        case ast.List(elements):
            return _compile_call(lambda *items: items, *elements)
        case ast.Name(name):
            return operator.itemgetter(name)
        case ast.Constant(value):
            return lambda _: value
    raise ValueError(f"{ast.unparse(node)}: not supported; expected only tests of fields and lists")


def _compile_call(function: Callable[..., Any], *arguments: ast.expr) -> Evaluator:
    evaluators = [_compile(each) for each in arguments]
    return lambda variables: function(*[evaluate(variables) for evaluate in evaluators])


def _compile_macro(
    macro: Callable[[Iterable[Any], list[Any]], Any], target: Evaluator, variable: str, expression: Evaluator
) -> Evaluator:
    def evaluate(variables: Variables) -> Any:
        items = target(variables)
        return macro(items, [expression({**variables, variable: item}) for item in items])

    return evaluate
