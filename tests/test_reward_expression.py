"""Rewards typed as text: what they compute, and that a hostile text is refused in a line."""

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsp.envs.rewards import OwnReward
from lsp.errors import UserError
from lsp.explorer.expression import DEEPEST, FUNCTIONS, LONGEST, read_reward

WIDTHS = {"torso_velocity": 3, "torso_upright": 1, "imu": 6, "action": 2}
RNG = np.random.default_rng(0)
SEEN: Any = {name: RNG.normal(size=(5, width)) for name, width in WIDTHS.items()}
ACTIONS = SEEN.pop("action")
V, U, M = SEEN["torso_velocity"], SEEN["torso_upright"][:, 0], SEEN["imu"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-torso_velocity[0]", -V[:, 0]),
        ("torso_upright", U),
        (" torso_upright * 2 - 1 ", U * 2 - 1),
        ("2", np.full(5, 2.0)),
        ("norm(torso_velocity[:2])", np.hypot(V[:, 0], V[:, 1])),
        ("imu[-1] % 2 ** 2", M[:, 5] % 4),
        ("sum(imu[3:]) / mean(torso_velocity * torso_velocity)",
         M[:, 3:].sum(-1) / (V**2).mean(-1)),
        ("torso_upright > 0.2", (U > 0.2) * 1.0),
        ("-1 < torso_upright < .5 and not imu[0] > 0",
         ((U > -1) & (U < 0.5) & (M[:, 0] <= 0)) * 1.0),
        ("torso_upright > 0 or imu[0] > 0", ((U > 0) | (M[:, 0] > 0)) * 1.0),
        ("clip(imu[0], 0, 1) + max(imu[1], -min(imu[2], 3))",
         M[:, 0].clip(0, 1) + np.maximum(M[:, 1], -np.minimum(M[:, 2], 3))),
        ("atan2(imu[0], imu[1]) * tanh(abs(sin(imu[2]) - cos(imu[3])))",
         np.arctan2(M[:, 0], M[:, 1]) * np.tanh(np.abs(np.sin(M[:, 2]) - np.cos(M[:, 3])))),
        ("exp(-norm(action)) + sqrt(log(4))",
         np.exp(-np.linalg.norm(ACTIONS, axis=-1)) + np.log(4) ** 0.5),
        ("(torso_velocity / 2)[1]", V[:, 1] / 2),
    ],
)  # fmt: skip
def test_an_expression_pays_what_numpy_would(text: str, expected: Any) -> None:
    paid = OwnReward(read_reward(text, WIDTHS), text)(SEEN, ACTIONS)
    np.testing.assert_allclose(paid, expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "type one"),
        ("torso_velocity", "one number, and this has 3"),
        ("torso_velocity + imu", "3 and 6 numbers"),
        ("torso_velocity[3]", "there are 3, counted from 0"),
        ("torso_velocity[-4]", "there are 3"),
        ("imu[6:]", "is empty"),
        ("height", "'height' is not observed: known are torso_velocity (3)"),
        ("max(imu)", "max takes 2 arguments, not 1"),
        ("1 +", "no expression: invalid syntax"),
        ("torso_velocity[imu]", "whole number"),
        ("torso_upright = 1", "no expression"),
    ],
)
def test_a_mistake_is_explained_in_a_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        read_reward(text, WIDTHS)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


HOSTILE = [
    "__import__('os').system('true')",
    "().__class__.__bases__[0].__subclasses__()",
    "torso_upright.__class__",
    "torso_upright.base",
    "imu.tofile('x')",
    "imu.T[0]",
    "(lambda: 1)()",
    "[x for x in imu][0]",
    "sum(x for x in imu)",
    "{x for x in imu}",
    "{x: x for x in imu}",
    "(x := 1)",
    "'a' * 100",
    "f'{imu}'",
    "b'x'",
    "1j",
    "True",
    "None",
    "...",
    "imu[0] if 1 else 0",
    "await imu",
    "yield 1",
    "eval('1')",
    "exec('1')",
    "open('x')",
    "print(1)",
    "abs.__globals__",
    "abs",
    "abs(*imu)",
    "abs(x=1)",
    "abs(**imu)",
    "clip(imu[0], min=0, max=1)",
    "max(imu[0], key=abs)",
    "getattr(imu, 'T')",
    "imu['__class__']",
    "imu[0, 1]",
    "imu[::2]",
    "imu[...]",
    "imu[True]",
    "imu[1.0]",
    "imu[abs]",
    "imu @ imu",
    "imu << 9999999",
    "9 // 0",
    "~imu",
    "imu is imu",
    "1 in imu",
    "(1, 2)",
    "[1, 2]",
    "{}",
    "import os",
    "x = 1",
    "1; 2",
    "a\0b",
    "\\",
    "`1`",
    "9" * 10_000,
    "(" * 150,
    "[" * 150 + "]" * 150,
    "{" * 150 + "}" * 150,
    "lambda:" * 40,
    "-" * 290 + "1",
    "not " * 70 + "1",
    "abs(" * 70 + "1" + ")" * 70,
    "imu" + "[0]" * 90,
    "1" + "+1" * 140,
    "1" + "**9" * 90,
    "(" * 100_000,
    "-" * 100_000 + "1",
    "imu.a" + ".a" * 140,
    "\ud800",
    "ａｂｓ.x",
    "1" + " " * 10**7,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:40])
def test_a_hostile_text_is_refused_in_a_line_and_at_once(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(UserError) as raised:
        read_reward(text, WIDTHS)
    assert time.perf_counter() - began < 0.1
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "text", ["9**9**9**9**9", "1/0", "log(-1)", "exp(1e6)", "(-8)**.5", "1e308*10"]
)
def test_numbers_that_are_none_are_refused_when_they_are_paid(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(UserError, match="one finite number"):
        OwnReward(read_reward(text, WIDTHS), text)(SEEN, ACTIONS)
    assert time.perf_counter() - began < 0.1


def test_a_nested_key_is_written_with_an_underscore() -> None:
    reward = read_reward("arm_angle[1]", {"arm/angle": 2, "action": 1})
    paid = reward({"arm/angle": np.array([[1.0, 2.0]])}, np.zeros((1, 1)))
    np.testing.assert_allclose(paid, [2])


def test_what_is_long_but_flat_can_be_read() -> None:
    half = "+".join(["1"] * DEEPEST)
    paid = OwnReward(read_reward(f"({half})*({half})"[:LONGEST], WIDTHS))(SEEN, ACTIONS)
    np.testing.assert_allclose(paid, DEEPEST**2)


PIECES = st.sampled_from(
    [*WIDTHS, *FUNCTIONS, *"()[]{}+-*/%<>=!.,:;'\"@~^&|\\#\n\t 0123456789_xj",
     "**", "//", "0x", "1e9", "lambda ",
     " for ", " in ", " if ", " else ", " and ", " not ",
     "__class__", ":=", "∞", "\0"]
)  # fmt: skip


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=40).map("".join)))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_text_pays_a_number_a_row_or_is_refused_in_a_line(text: str) -> None:
    refusal, reward = "", None
    try:
        reward = read_reward(text, WIDTHS)
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal
    if reward is None:
        assert refusal
        return
    paid = reward(SEEN, ACTIONS)
    assert paid.shape == (5,)
    assert paid.dtype == np.float64


NUMBERS = st.sampled_from(["1", "2.5", "torso_upright", "imu[0]", "norm(action)"])
NESTED = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/%<>"), inner).map(lambda x: f"({x[0]}{x[1]}{x[2]})"),
        inner.map(lambda x: f"-{x}"),
        inner.map(lambda x: f"tanh({x})"),
        st.tuples(inner, inner).map(lambda x: f"min({x[0]},{x[1]})"),
    ),
    max_leaves=8,
)


@given(NESTED)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_rows_are_paid_by_themselves(text: str) -> None:
    reward = read_reward(text, WIDTHS)
    together = reward(SEEN, ACTIONS)
    alone = reward({name: x[2:3] for name, x in SEEN.items()}, ACTIONS[2:3])
    np.testing.assert_allclose(together[2:3], alone)
