"""A reward typed as text, such as ``torso_upright * -torso_velocity[0]``, read without running it.

The text becomes Python's own syntax tree, and a walk over it turns each of the few allowed kinds of
node into a function of arrays. Nothing else can be written: no attributes, calls of anything but
`FUNCTIONS`, comprehensions or strings, so that a stranger's text can do no more than arithmetic.
"""

import ast
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lsp.envs.rewards import RewardFunction
from lsp.errors import UserError

LONGEST = 300  # characters; CPython's parser needs no more stack for so many, however nested
DEEPEST = 20  # operations inside each other
ACTION = "action"

Rows = Float[np.ndarray, "time width"]
"""One number a row has width 1, and so fits beside a vector of any width."""
Column = Float[np.ndarray, "time 1"]
Values = Mapping[str, np.ndarray]


class Term(NamedTuple):
    """A part of an expression: what it computes of all names, and how many numbers a row has."""

    compute: Callable[[Values], Rows]
    width: int


class Function(NamedTuple):
    """What a name followed by brackets does. `reduces` a single vector to one number a row."""

    compute: Callable[..., np.ndarray]
    least: int
    most: int
    reduces: bool = False


def _sum(x: Rows) -> Column:
    return np.asarray(x.sum(-1, keepdims=True))


def _mean(x: Rows) -> Column:
    return np.asarray(x.mean(-1, keepdims=True))


def _norm(x: Rows) -> Column:
    return np.asarray(np.sqrt(np.square(x).sum(-1, keepdims=True)))


FUNCTIONS = {
    "abs": Function(np.abs, 1, 1),
    "sqrt": Function(np.sqrt, 1, 1),
    "exp": Function(np.exp, 1, 1),
    "log": Function(np.log, 1, 1),
    "sin": Function(np.sin, 1, 1),
    "cos": Function(np.cos, 1, 1),
    "tanh": Function(np.tanh, 1, 1),
    "atan2": Function(np.arctan2, 2, 2),
    "min": Function(np.minimum, 2, 2),
    "max": Function(np.maximum, 2, 2),
    "clip": Function(np.clip, 3, 3),
    "sum": Function(_sum, 1, 1, reduces=True),
    "mean": Function(_mean, 1, 1, reduces=True),
    "norm": Function(_norm, 1, 1, reduces=True),
}
_BINARY: dict[type[ast.operator], Callable[..., np.ndarray]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,  # of floats: too much is infinite, and takes no time
}
_UNARY: dict[type[ast.unaryop], Callable[..., np.ndarray]] = {
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Not: np.logical_not,
}
_COMPARED: dict[type[ast.cmpop], Callable[..., np.ndarray]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}


def read_reward(text: str, widths: Mapping[str, int]) -> RewardFunction:
    """The reward that a text asks for.

    Args:
        text: a Python expression over the names in `widths`: numbers, arithmetic, comparisons
            (1 where they hold, else 0) joined by `and` and `or`, constant indices and slices, and
            `FUNCTIONS`.
        widths: how many numbers there are of each name: the vectors observed, and of `action`.
            A key with "/" is written with "_".

    Returns:
        A function of (observations, actions), `[time, width]` each, that returns `[time]`.

    Raises:
        UserError: in one line, what cannot be read, or that there is not one number a row.
    """
    term = _Reader(text, widths).read(_parsed(text).body, 0)
    if term.width != 1:
        raise UserError(
            f"a reward is one number, and this has {term.width}: take one, x[0], or their sum, "
            "mean or norm"
        )

    def reward(observations: Values, actions: np.ndarray) -> np.ndarray:
        values = dict(observations)
        values.setdefault(ACTION, actions)
        with np.errstate(all="ignore"):  # what is not finite is found by whoever is paid
            paid = term.compute(values)
        return np.array(np.broadcast_to(paid, (len(actions), 1))[:, 0], np.float64)

    return reward


def _parsed(text: str) -> ast.Expression:
    if len(text) > LONGEST:
        raise UserError(f"a reward has at most {LONGEST} characters, not {len(text)}")
    if not text.strip():
        raise UserError("no reward: type one, such as norm(action)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful spellings, all of which are refused
            return ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise UserError(f"no expression: {error.msg}, at character {error.offset}") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise UserError(f"no expression that can be read: {error}") from error


class _Reader:
    """Turns a syntax tree into a term; what is not allowed is quoted from the text."""

    def __init__(self, text: str, widths: Mapping[str, int]) -> None:
        self._text, self._widths = text.strip(), widths
        self._keys = {key.replace("/", "_"): key for key in widths}

    def read(self, node: ast.AST, depth: int) -> Term:
        if depth > DEEPEST:
            raise UserError(f"more than {DEEPEST} operations inside each other")
        inner = depth + 1
        match node:
            case ast.Constant():
                return self._number(node)
            case ast.Name():
                return self._named(node)
            case ast.UnaryOp() if type(node.op) in _UNARY:
                return _joined(_UNARY[type(node.op)], self.read(node.operand, inner))
            case ast.BinOp() if type(node.op) in _BINARY:
                both = self.read(node.left, inner), self.read(node.right, inner)
                return _joined(_BINARY[type(node.op)], *both)
            case ast.Compare():
                return self._compared(node, inner)
            case ast.BoolOp():
                how = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                return _chained(how, [self.read(each, inner) for each in node.values])
            case ast.Subscript():
                return self._part(node, inner)
            case ast.Call():
                return self._called(node, inner)
        raise self._refused(node)

    def _number(self, node: ast.Constant) -> Term:
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise self._refused(node)
        try:
            number = np.full((1, 1), float(node.value))
        except OverflowError as error:
            raise UserError("a number is too large") from error
        return Term(lambda values: number, 1)

    def _named(self, node: ast.Name) -> Term:
        if node.id not in self._keys:
            known = ", ".join(f"{name} ({self._widths[key]})" for name, key in self._keys.items())
            raise UserError(f"{self._quoted(node)} is not observed: known are {known}")
        key = self._keys[node.id]
        return Term(lambda values: np.asarray(values[key], np.float64), self._widths[key])

    def _compared(self, node: ast.Compare, depth: int) -> Term:
        if any(type(each) not in _COMPARED for each in node.ops):
            raise self._refused(node)
        sides = [self.read(each, depth) for each in (node.left, *node.comparators)]
        pairs = zip(node.ops, sides, sides[1:])
        holds = [_joined(_COMPARED[type(how)], left, right) for how, left, right in pairs]
        return _chained(np.logical_and, holds)

    def _part(self, node: ast.Subscript, depth: int) -> Term:
        whole = self.read(node.value, depth)
        if isinstance(node.slice, ast.Slice):
            bounds = node.slice.lower, node.slice.upper
            if node.slice.step is not None:
                raise self._refused(node)
            chosen = slice(*(None if x is None else self._index(x) for x in bounds))
        else:
            index = self._index(node.slice)
            if not -whole.width <= index < whole.width:
                raise UserError(f"{self._quoted(node)}: there are {whole.width}, counted from 0")
            chosen = slice(index, None if index == -1 else index + 1)
        width = len(range(whole.width)[chosen])
        if width == 0:
            raise UserError(f"{self._quoted(node)} is empty: there are {whole.width}")
        return Term(lambda values: whole.compute(values)[:, chosen], width)

    def _index(self, node: ast.AST) -> int:
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            node, sign = node.operand, -1
        # bool is an int as well.
        if not isinstance(node, ast.Constant) or type(node.value) is not int:
            raise UserError(f"an index must be a whole number, not {self._quoted(node)}")
        return sign * node.value

    def _called(self, node: ast.Call, depth: int) -> Term:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name not in FUNCTIONS:
            known = ", ".join(FUNCTIONS)
            raise UserError(f"{self._quoted(node.func)} is no function here: there are {known}")
        if node.keywords:
            raise self._refused(node)
        function = FUNCTIONS[name]
        terms = [self.read(each, depth) for each in node.args]
        if not function.least <= len(terms) <= function.most:
            raise UserError(f"{name} takes {function.least} arguments, not {len(terms)}")
        joined = _joined(function.compute, *terms)
        return joined._replace(width=1) if function.reduces else joined

    def _refused(self, node: ast.AST) -> UserError:
        return UserError(
            f"{self._quoted(node)} is not allowed: a reward has numbers, names, arithmetic, "
            "comparisons, x[0], and functions"
        )

    def _quoted(self, node: ast.AST) -> str:
        said = ast.get_source_segment(self._text, node) or type(node).__name__
        said = " ".join(said.split())
        return repr(said if len(said) <= 40 else f"{said[:37]}...")


def _joined(compute: Callable[..., np.ndarray], *terms: Term) -> Term:
    """A function of terms, row by row and number by number."""
    wide = {term.width for term in terms} - {1}
    if len(wide) > 1:
        sizes = " and ".join(str(width) for width in sorted(wide))
        raise UserError(f"vectors of {sizes} numbers do not fit each other: take parts of them")

    def joined(values: Values) -> Rows:
        return np.asarray(compute(*(term.compute(values) for term in terms)), np.float64)

    return Term(joined, wide.pop() if wide else 1)


def _chained(compute: Callable[..., np.ndarray], terms: list[Term]) -> Term:
    first, *others = terms
    for other in others:
        first = _joined(compute, first, other)
    return first
