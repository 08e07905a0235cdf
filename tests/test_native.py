"""The kernels compute what the reference does: the same noise in, the same numbers and gradients
out, up to rounding."""

import gc
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import linear, make_batch, seeded
from passes import (
    ACTIONS,
    CLOSE,
    MLPS,
    distance,
    gradient_of_plan,
    likelihood,
    make_disturbed,
    pass_through,
    plans_of_starts,
    predict_heads,
    rollout,
    scan,
    whole_update,
)

import lsp.backends.backends
import lsp.backends.native.build
import lsp.backends.native.imagination
import lsp.backends.native.layers
import lsp.backends.native.mlp
from lsp.algorithm.learner import Learner
from lsp.backends.backends import (
    CompiledBackend,
    EagerBackend,
    NativeBackend,
    acting_backend,
    learning_backend,
)
from lsp.backends.hardware import compiler
from lsp.backends.native.build import CannotBuild, library
from lsp.backends.native.layers import room
from lsp.config import RuntimeConfig
from lsp.errors import RunWarning

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")

HAS_BF16 = compiler() is not None and lsp.backends.native.layers._can_multiply(torch.bfloat16)
bf16_products = pytest.mark.skipif(not HAS_BF16, reason="no small products in bf16 on this CPU")
PRECISIONS = [torch.float32, pytest.param(torch.bfloat16, marks=bf16_products)]


WIDE = {"deter": 40, "hidden": 50, "stoch": 7}
VARIANTS: dict[str, dict[str, Any]] = {
    "lsp": {},
    "without LayerNorm": {"model": {"layer_norm": False}, "policy": {"layer_norm": False}},
    "odd sizes": {"model": WIDE, "policy": {"layers": (33, 65, 20)}},
    "no hidden layer": {"policy": {"layers": ()}},
    "two skills in a plan": {"planner": {"horizon": 10, "skill_length": 7}},
    "stopped gradient": {"policy": {"stop_input_gradient": True}},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", [1, 37, 130, 300])  # of two tiles, three, and two blocks
def test_imagination_is_the_reference(variant: Any, rows: Any) -> None:
    networks = make_disturbed(**VARIANTS[variant])
    path = NativeBackend(networks)
    expected = rollout(networks, networks.imagine, list(networks.policy.parameters()), rows)
    found = rollout(
        networks, path.frozen_copy.imagine, list(path.frozen_copy.policy.parameters()), rows
    )
    assert distance(found[0], expected[0]) < CLOSE
    assert distance(found[1], expected[1]) < CLOSE


@pytest.fixture
def threads(request: Any) -> Any:
    """So many compute, be there as many cores or not."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [2, 3, 5, 8], indirect=True)
@pytest.mark.parametrize("rows", [5, 37, 1000])
def test_any_number_of_threads_is_the_reference_and_repeatable(threads: Any, rows: Any) -> None:
    networks = make_disturbed()
    copy = NativeBackend(networks).frozen_copy
    learned = list(copy.policy.parameters())
    expected = rollout(networks, networks.imagine, list(networks.policy.parameters()), rows)
    found, again = (rollout(networks, copy.imagine, learned, rows) for _ in range(2))
    for part, other, reference in zip(found, again, expected, strict=True):
        assert distance(part, reference) < CLOSE
        assert all(torch.equal(x, y) for x, y in zip(part, other, strict=True))


@pytest.mark.parametrize("threads", [1, 4, 8], indirect=True)
def test_an_update_is_the_same_for_any_number_of_threads(threads: Any) -> None:
    networks = make_disturbed()
    learner = Learner(networks, 0, NativeBackend(networks))
    batch = make_batch(networks.config, actions=ACTIONS)
    metrics = [learner.update(batch) for _ in range(3)][-1]
    found = {name: float(value) for name, value in metrics.items()}
    torch.set_num_threads(1)
    reference = make_disturbed()
    alone = Learner(reference, 0, NativeBackend(reference))
    expected = [alone.update(batch) for _ in range(3)][-1]
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", [1, 300])
def test_the_gradient_of_a_plan_is_the_reference(variant: Any, rows: Any) -> None:
    networks = make_disturbed(**VARIANTS[variant])
    copy = NativeBackend(networks).frozen_copy
    found, expected = (gradient_of_plan(x, x.imagine, rows) for x in (copy, networks))
    assert distance(found, expected) < CLOSE


def test_the_gradient_of_planned_actions_is_the_reference() -> None:
    networks = make_disturbed("cem")
    copy = NativeBackend(networks).frozen_copy
    found, expected = (gradient_of_plan(x, x.imagine, 37) for x in (copy, networks))
    assert distance(found, expected) < CLOSE
    assert (found[0] == 0).float().mean() > 0.1  # where actions are beyond ±1


@bf16_products
def test_the_gradient_of_a_plan_in_bf16_stays_near_the_reference() -> None:
    networks = make_disturbed()
    copy = NativeBackend(networks, torch.bfloat16).frozen_copy
    found, expected = (gradient_of_plan(x, x.imagine, 37) for x in (copy, networks))
    assert 0 < distance(found, expected) < 0.06


@pytest.mark.parametrize("method", ["dreamer", "cem"])
def test_imagination_without_skills_is_the_reference(method: Any) -> None:
    networks = make_disturbed(method)
    copy = NativeBackend(networks).frozen_copy
    learned = [[] if method == "cem" else list(x.policy.parameters()) for x in (networks, copy)]
    expected = rollout(networks, networks.imagine, learned[0])
    found = rollout(networks, copy.imagine, learned[1])
    assert distance(found[0], expected[0]) < CLOSE
    assert method == "cem" or distance(found[1], expected[1]) < CLOSE


@pytest.mark.parametrize("variant", [*VARIANTS, "dreamer", "many numbers"])
@pytest.mark.parametrize("rows", [1, 37, 300])
def test_the_likelihood_of_drawn_states_is_the_reference(variant: Any, rows: Any) -> None:
    method = variant if variant == "dreamer" else "lsp"
    parts = {"model": {"stoch": 21}} if variant == "many numbers" else VARIANTS.get(variant, {})
    networks = make_disturbed(method, **parts)
    expected = likelihood(networks, networks, rows)
    found = likelihood(networks, NativeBackend(networks).frozen_copy, rows)
    assert distance(found[0], expected[0]) < CLOSE
    assert distance(found[1], expected[1]) < CLOSE


def test_the_likelihood_of_a_model_that_is_nearly_sure_is_the_reference() -> None:
    """Standard deviations of 1e-6 in 21 numbers: their product is no float."""
    networks = make_disturbed(model={"stoch": 21, "min_std": 1e-6})
    with torch.no_grad():
        linear(networks.world_model.rssm.prior_head).bias[21:] = -30.0
    expected = likelihood(networks, networks, 5)[0]
    found = likelihood(networks, NativeBackend(networks).frozen_copy, 5)[0]
    assert all(x.isfinite().all() for x in found)
    assert distance(found, expected) < 1e-3


@bf16_products
def test_the_likelihood_in_bf16_stays_near_the_reference() -> None:
    networks = make_disturbed()
    expected = likelihood(networks, networks, 37)
    found = likelihood(networks, NativeBackend(networks, torch.bfloat16).frozen_copy, 37)
    assert 0 < distance(found[0], expected[0]) < 0.03
    assert 0 < distance(found[1], expected[1]) < 0.1


@bf16_products
def test_bf16_stays_near_the_reference() -> None:
    networks = make_disturbed()
    copy = NativeBackend(networks, torch.bfloat16).frozen_copy
    expected = rollout(networks, networks.imagine, list(networks.policy.parameters()))
    found = rollout(networks, copy.imagine, list(copy.policy.parameters()))
    assert 0 < distance(found[0], expected[0]) < 0.03
    assert 0 < distance(found[1], expected[1]) < 0.06


@pytest.mark.parametrize("variant", ["lsp", "without LayerNorm", "odd sizes"])
@pytest.mark.parametrize("rows", [1, 7])
def test_the_filter_is_the_reference(variant: Any, rows: Any) -> None:
    networks = make_disturbed(**VARIANTS[variant])
    expected = scan(networks, networks.world_model.rssm.scan, rows=rows)
    found = scan(networks, NativeBackend(networks).scan, rows=rows)
    assert distance(found[0], expected[0]) < CLOSE
    assert distance(found[1], expected[1]) < CLOSE


@bf16_products
def test_the_filter_in_bf16_stays_near_the_reference() -> None:
    networks = make_disturbed()
    expected = scan(networks, networks.world_model.rssm.scan)
    found = scan(networks, NativeBackend(networks, torch.bfloat16).scan)
    assert 10 * CLOSE < distance(found[0], expected[0]) < 0.03
    assert 10 * CLOSE < distance(found[1], expected[1]) < 0.06


@pytest.mark.parametrize("variant", ["lsp", "without LayerNorm", "odd sizes"])
@pytest.mark.parametrize("name", MLPS)
def test_every_mlp_is_the_reference(variant: Any, name: Any) -> None:
    networks = make_disturbed(**VARIANTS[variant])
    holder, part = MLPS[name]
    holders = {"frozen_copy": networks, "model": networks.world_model}
    mlp = getattr(NativeBackend(networks), holder).get_submodule(part)
    assert mlp.faster is not None
    reference = holders[holder].get_submodule(part)
    assert reference.faster is None
    assert distance(pass_through(mlp), pass_through(reference)) < CLOSE


def test_what_nobody_asks_for_is_not_computed() -> None:
    """Two losses descend through one pass, in any order, each for other weights."""
    mlp = NativeBackend(make_disturbed()).frozen_copy.skill_predictor.net
    assert mlp.faster is not None
    inputs: Any = mlp[0].in_features
    before = torch.randn(7, inputs, generator=seeded(1)).requires_grad_()
    y = mlp(before.tanh()).square().sum()
    everything = [before, *mlp.parameters()]
    expected = torch.autograd.grad(y, everything, retain_graph=True)
    backward = lsp.backends.native.mlp.Call.backward
    asked: list[Any] = []

    def watched(self: Any, given: Any, *wanted: Any) -> Any:
        asked.append(wanted)
        return backward(self, given, *wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lsp.backends.native.mlp.Call, "backward", watched)
        for part in (slice(0, 1), slice(1, None), slice(0, 1), slice(None)):
            found = torch.autograd.grad(y, everything[part], retain_graph=True)
            assert all(map(torch.equal, found, expected[part]))
    assert asked == [(True, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize("variant", ["lsp", "without LayerNorm", "odd sizes"])
@pytest.mark.parametrize("method", ["lsp", "cem"])
@pytest.mark.parametrize("termination", [False, True])
def test_judging_is_the_reference(variant: Any, method: Any, termination: Any) -> None:
    parts: dict[str, Any] = {"model": {}} | VARIANTS[variant]
    parts["model"] = parts["model"] | {"termination": termination}
    networks = make_disturbed(method, **parts)
    expected = predict_heads(networks, networks.predict_heads)
    found = predict_heads(networks, NativeBackend(networks).frozen_copy.predict_heads)
    assert distance(found[0], expected[0]) < CLOSE
    assert distance(found[1], expected[1]) < CLOSE


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("candidates", [1, 8, 43])  # 43: the second block begins amid the starts
@pytest.mark.parametrize("variant", ["lsp", "odd sizes", "two skills in a plan", "cem"])
def test_judging_plans_is_the_reference(variant: Any, candidates: Any, shared: Any) -> None:
    networks = make_disturbed("cem" if variant == "cem" else "lsp", **VARIANTS.get(variant, {}))
    start, plan, noise = plans_of_starts(networks, candidates, shared)
    copy = NativeBackend(networks).frozen_copy
    with torch.no_grad():
        found, same = copy.judge_plans(start, plan, noise), networks.judge_plans(start, plan, noise)
        every = torch.arange(len(plan))
        own = (x[:, every % x.shape[1]] for x in noise)
        rollout = networks.imagine(start.rows(every % 7), plan, type(noise)(*own))
        expected = networks.predict_heads(rollout.feature[1:])
    assert distance(same, expected) < 1e-6
    assert distance(found, expected) < CLOSE


@pytest.mark.parametrize("candidates", [1, 8, 43])
@pytest.mark.parametrize("variant", ["lsp", "odd sizes", "dreamer"])
def test_judging_actions_is_the_reference(variant: Any, candidates: Any) -> None:
    parts: dict[str, Any] = VARIANTS.get(variant, {})
    method = "dreamer" if variant == "dreamer" else "lsp"
    networks = make_disturbed(method, **parts, actions={"num_candidates": 16})
    start, _, _ = plans_of_starts(networks, 1, True)
    shape = 7 * candidates, 3, networks.action_dim
    actions = 2 * torch.randn(shape, generator=seeded(5))
    copy = NativeBackend(networks).frozen_copy
    assert copy.judge_actions_at_once is not None
    with torch.no_grad():
        found, expected = (x.judge_actions(start, actions) for x in (copy, networks))
    assert found.reward.shape == (3, 7 * candidates)
    assert distance(found, expected) < CLOSE


def test_plans_that_want_a_gradient_are_judged_with_one() -> None:
    networks = make_disturbed()
    copy = NativeBackend(networks).frozen_copy
    start, plan, noise = plans_of_starts(networks, 2, True)
    plan.requires_grad_()
    found, expected = (
        torch.autograd.grad(x.judge_plans(start, plan, noise).value.sum(), plan)
        for x in (copy, networks)
    )
    assert distance(found, expected) < CLOSE


@bf16_products
def test_judging_plans_in_bf16_stays_near_the_reference() -> None:
    networks = make_disturbed()
    plans = plans_of_starts(networks, 43, True)
    copy = NativeBackend(networks, torch.bfloat16).frozen_copy
    with torch.no_grad():
        found, expected = (x.judge_plans(*plans) for x in (copy, networks))
    assert 0 < distance(found[::2], expected[::2]) < 0.03


@bf16_products
def test_judging_in_bf16_stays_near_the_reference() -> None:
    networks = make_disturbed()
    expected = predict_heads(networks, networks.predict_heads)
    copy = NativeBackend(networks, torch.bfloat16).frozen_copy
    found = predict_heads(copy, copy.predict_heads)
    assert 0 < distance(found[0][::2], expected[0][::2]) < 0.03
    assert 0 < distance(found[1], expected[1]) < 0.06


FORWARD = {"estimator": "forward", "intrinsic_scale": 1.0}
UPDATES: dict[str, dict[str, Any]] = {
    "lsp": {},
    "entropy": {"policy": {"entropy": 0.3}},
    "entropy, stopped gradient": {"policy": {"entropy": 0.3, "stop_input_gradient": True}},
    "entropy, two skills": {
        "policy": {"entropy": 0.3},
        "planner": {"horizon": 10, "skill_length": 7},
    },
    "forward": {"skills": FORWARD},
    "forward, stopped gradient": {"skills": FORWARD, "policy": {"stop_input_gradient": True}},
    "forward, two segments": {"skills": FORWARD, "planner": {"horizon": 10, "skill_length": 4}},
}


@pytest.mark.parametrize("update", UPDATES)
def test_a_whole_update_is_the_reference(update: Any) -> None:
    """Losses and gradients of all parts, the same noise in."""
    paths = (EagerBackend, NativeBackend)
    (expected, weights), (found, changed) = (whole_update(x, **UPDATES[update]) for x in paths)
    assert ("policy/entropy" in found) == update.startswith("entropy")
    assert ("skills/mutual_information_forward" in found) == update.startswith("forward")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert 0 < distance(changed.values(), weights.values()) < CLOSE


@bf16_products
def test_learning_the_model_in_bf16_stays_near_the_reference() -> None:
    expected, _ = whole_update(EagerBackend)
    found, _ = whole_update(lambda networks: NativeBackend(networks, torch.bfloat16))
    names = [name for name in expected if name.startswith(("model/", "gradient/model"))]
    assert len(names) > 6
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=0.03, atol=1e-3, msg=name)
    assert any(found[name] != expected[name] for name in names)


def test_changed_weights_are_noticed_however_they_changed() -> None:
    networks = make_disturbed()
    copy = NativeBackend(networks).frozen_copy

    def same() -> Any:
        reference = deepcopy(networks)  # which computes eagerly
        found, expected = (rollout(networks, x.imagine, [])[0] for x in (copy, reference))
        return distance(found, expected) < CLOSE

    assert same()
    with torch.no_grad():
        networks.policy.net[0].weight.add_(0.1)
    assert same()
    networks.load_state_dict({k: 0.5 * x for k, x in networks.state_dict().items()})
    assert same()
    networks.policy.net[0].weight.data = networks.policy.net[0].weight.data + 0.3
    assert same()


def test_the_networks_themselves_stay_as_they_are() -> None:
    """They act and are looked into in full precision, whatever learns."""
    networks = make_disturbed()
    NativeBackend(networks, torch.bfloat16 if HAS_BF16 else torch.float32)
    assert all(getattr(part, "faster", None) is None for part in networks.modules())
    assert all(weight.dtype == torch.float32 for weight in networks.parameters())


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_nan_comes_through(dtype: Any) -> None:
    networks = make_disturbed()
    path = NativeBackend(networks, dtype)
    with torch.no_grad():
        networks.policy.net[0].bias[0] = float("nan")
    assert all(x.isnan().any() for x in rollout(networks, path.frozen_copy.imagine, [])[0])
    x = torch.full((2, networks.world_model.features), float("nan"))
    assert path.model.reward_head(x).isnan().all()
    assert path.frozen_copy.predict_heads(x).value.isnan().all()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_same_again_is_the_same_to_the_bit(dtype: Any) -> None:
    networks = make_disturbed()
    copy = NativeBackend(networks, dtype).frozen_copy
    once, again = (
        rollout(networks, copy.imagine, list(copy.policy.parameters()), 130) for _ in range(2)
    )
    for one, other in zip((*once[0], *once[1]), (*again[0], *again[1]), strict=True):
        assert torch.equal(one, other)


def test_without_gradients_nothing_is_kept_for_the_way_back(monkeypatch: Any) -> None:
    networks = make_disturbed()
    copy = NativeBackend(networks).frozen_copy
    kept: list[Any] = []

    def counted(size: Any) -> Any:
        kept.append(size)
        return room(size)

    for module in (lsp.backends.native.imagination, lsp.backends.native.mlp):
        monkeypatch.setattr(module, "room", counted)
    learned = list(copy.policy.parameters())
    with torch.no_grad():
        features, _ = rollout(networks, copy.imagine, [])
        copy.predict_heads(features[0])
    assert not kept
    copy.predict_heads(features[0].clone().requires_grad_())  # which knows its way back at once
    assert not kept
    rollout(networks, copy.imagine, learned)
    copy.value(features[0])
    assert len(kept) == 2


def test_nothing_is_kept_of_a_pass_that_is_over() -> None:
    """Memory is given back at once: none of it hangs in a circle."""
    networks = make_disturbed()
    path = NativeBackend(networks)
    learned = list(path.frozen_copy.policy.parameters())

    def passes() -> None:
        rollout(networks, path.frozen_copy.imagine, learned)
        scan(networks, path.scan)
        states = torch.randn(4, networks.world_model.features).requires_grad_()
        path.model.reward_head(states).sum()
        path.frozen_copy.predict_heads(states)

    passes()
    gc.collect()
    gc.disable()
    try:
        before = sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())
        for _ in range(3):
            passes()
        assert sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects()) == before
    finally:
        gc.enable()


def test_without_a_compiler_everything_is_eager_and_one_line_says_so(monkeypatch: Any) -> None:
    networks = make_disturbed()
    monkeypatch.setattr(lsp.backends.native.build, "compiler", lambda: None)
    monkeypatch.setattr(lsp.backends.backends, "compiler", lambda: None)
    library.cache_clear()
    lsp.backends.native.layers._can_multiply.cache_clear()
    lsp.backends.backends._say_once.cache_clear()
    runtime = RuntimeConfig(compile=True)
    try:
        with pytest.warns(RunWarning, match=r"no C\+\+ compiler") as said:
            made = [learning_backend(networks, runtime), acting_backend(networks, runtime)]
        assert [type(x) for x in made] == [EagerBackend, EagerBackend]
        assert len(said) == 1
    finally:
        library.cache_clear()
        lsp.backends.backends._say_once.cache_clear()


def test_a_processor_without_small_products_is_compiled_for_instead(monkeypatch: Any) -> None:
    networks = make_disturbed()
    monkeypatch.setattr(lsp.backends.native.layers, "_can_multiply", lambda dtype: False)
    lsp.backends.backends._say_once.cache_clear()
    try:
        with pytest.warns(RunWarning, match="products for this processor"):
            path = learning_backend(networks, RuntimeConfig(compile=True))
        assert type(path) is CompiledBackend
        assert type(acting_backend(networks, RuntimeConfig(compile=True))) is EagerBackend
    finally:
        lsp.backends.backends._say_once.cache_clear()


def test_networks_too_deep_for_the_kernels_are_refused() -> None:
    networks = make_disturbed(policy={"layers": (8,) * 16})
    with pytest.raises(CannotBuild, match="16 layers, not 17"):
        NativeBackend(networks)


def test_an_older_processor_runs_the_kernels_in_fp32() -> None:
    """oneDNN can be told to do without what it finds; bf16 has no small products there."""
    check = (
        "import torch; from lsp.backends.native.layers import _can_multiply as can;"
        "print(can(torch.float32), can(torch.bfloat16))"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, env=environment)
    assert done.stdout.decode().split() == ["True", "False"], done.stderr


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["false"], "failed"),
        (["no-such-compiler"], "did not run"),
        (["true"], "wrote nothing"),
        (["sh", "-c", 'touch "$1"'], "wrote nothing"),
    ],
)
def test_a_compiler_that_fails_is_reported(tmp_path: Any, command: Any, why: Any) -> None:
    with pytest.raises(CannotBuild, match=why):
        lsp.backends.native.build._compile(command, tmp_path / "kernels.so")


def test_kernels_that_are_cut_short_are_compiled_again_once(tmp_path: Any) -> None:
    """In another process: the one that calls such kernels ends with SIGBUS."""
    here, cache = Path(library()._name), tmp_path / "lsp"
    made, whole = cache / here.name, here.read_bytes()
    cache.mkdir(mode=0o700)
    made.write_bytes(whole[: len(whole) // 2])
    shutil.copy(f"{here}.sha256", cache)
    twice = (
        "from lsp.backends.native.build import library; from pathlib import Path;"
        "made = Path(library()._name); before = made.stat().st_mtime_ns; library.cache_clear();"
        "assert Path(library()._name).stat().st_mtime_ns == before"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", twice], check=True, env=environment)
    assert made.stat().st_size == len(whole)


@pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's /proc")
def test_kernels_of_another_processor_are_other_kernels(monkeypatch: Any) -> None:
    here = lsp.backends.native.build._key("g++")
    monkeypatch.setattr(lsp.backends.native.build, "cpu_features", lambda: {"another"})
    assert lsp.backends.native.build._key("g++") != here
