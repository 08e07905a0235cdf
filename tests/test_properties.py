"""Whatever bytes a file holds and whatever a command is given: what was written, or our own error.

Never another exception, never code that runs; hypothesis' deadline is that nothing hangs.
"""

import dataclasses
import hashlib
import json
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

import lsp.cli.main
from lsp.cli.agents import _described, _table
from lsp.config import METHODS, PRESETS, Config, from_dict, make_config, to_dict, validated
from lsp.errors import RunWarning, UserError
from lsp.runs.agents import SCHEMA, Card, Sums, read_card
from lsp.runs.checkpoint import Checkpoint, load, load_newest, save
from lsp.runs.files import read_arrays, read_json, write_arrays, write_json
from lsp.runs.folder import RunFolder
from lsp.runs.metrics import read_metrics
from lsp.training.replay import Replay


@pytest.fixture(autouse=True)
def denormals() -> None:
    """Hypothesis draws them, and a training in this process has switched them off."""
    torch.set_flush_denormal(False)


many = settings(
    max_examples=150, deadline=timedelta(seconds=20), suppress_health_check=list(HealthCheck)
)
few = settings(many, max_examples=40)

keys = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)
dtypes = st.one_of(hnp.floating_dtypes(sizes=(32, 64)), hnp.integer_dtypes(), hnp.boolean_dtypes())
arrays = st.dictionaries(
    keys.map("obs/{}".format),
    hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_side=4)),
    max_size=3,
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@st.composite
def damage(draw: Any) -> Any:
    """A function from the bytes of a file to others."""
    kind = draw(st.sampled_from(["flip", "cut", "insert", "replace", "tail"]))
    where, byte = draw(st.floats(0, 1)), draw(st.integers(1, 255))
    junk = draw(st.binary(max_size=60))

    def spoil(content: Any) -> Any:
        at = int(where * max(len(content) - 1, 0))
        if kind == "flip" and content:
            return content[:at] + bytes([content[at] ^ byte]) + content[at + 1 :]
        return {
            "flip": junk,
            "cut": content[:at],
            "insert": content[:at] + junk + content[at:],
            "replace": junk,
            "tail": content + junk,
        }[kind]

    return spoil


def spoil_file(path: Any, spoil: Any) -> None:
    path.write_bytes(spoil(path.read_bytes()))


def attempt(work: Any) -> Any:
    """What `work` gives and None, or None and the line with which it is refused."""
    try:
        return work(), None
    except UserError as refused:
        line = str(refused)
    assert "\n" not in line
    return None, line


def assert_same_arrays(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for key, array in one.items():
        assert array.dtype == other[key].dtype
        np.testing.assert_array_equal(array, other[key])


@pytest.fixture(scope="module")
def folder() -> Any:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# Arrays and JSON


@many
@given(content=arrays, spoil=damage())
def test_arrays_are_what_was_written_or_an_error_that_names_the_file(
    folder: Any, content: Any, spoil: Any
) -> None:
    path = folder / "arrays.npz"
    write_arrays(path, content)
    assert_same_arrays(read_arrays(path), content)
    spoil_file(path, spoil)
    found, error = attempt(lambda: read_arrays(path))
    if error is None:
        assert_same_arrays(found, {key: content[key] for key in found})
    else:
        assert str(path) in error


@many
@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"a": ' * 50_000)
@example(b"9" * 10_000)
@example(b"\xff\xfe{")
@example(b"[]")
def test_json_of_any_bytes_is_an_object_or_an_error(folder: Any, content: Any) -> None:
    path = folder / "file.json"
    path.write_bytes(content)
    found, error = attempt(lambda: read_json(path))
    assert isinstance(found, dict) if error is None else str(path) in error


@many
@given(st.dictionaries(st.text(max_size=5), plain.filter(lambda x: x == x), max_size=3))
def test_json_is_what_was_written(folder: Any, content: Any) -> None:
    write_json(folder / "same.json", content)
    assert json.dumps(read_json(folder / "same.json")) == json.dumps(content)


# The replay


def episode(rows: Any, seed: Any) -> Any:
    rng = np.random.default_rng(seed)
    first = np.arange(rows) == 0
    return {
        "obs/position": rng.normal(size=(rows, 2)).astype(np.float32),
        "action": rng.normal(size=(rows, 1)).astype(np.float32),
        "reward": rng.normal(size=rows).astype(np.float32),
        "is_first": first,
        "is_terminal": np.zeros(rows, bool),
        "env_steps": np.where(first, 0, 2).astype(np.int32),
    }


def rows_of(replay: Any) -> Any:
    return replay.sample(1, len(replay), np.random.default_rng(0))


@many
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    spoiled=st.integers(0, 3),
    spoil=damage(),
    capacity=st.none() | st.integers(6, 12),
)
def test_a_replay_holds_what_was_added_without_what_is_damaged(
    lengths: Any, spoiled: Any, spoil: Any, capacity: Any
) -> None:
    with tempfile.TemporaryDirectory() as name:
        replay = Replay(Path(name), capacity)
        for seed, rows in enumerate(lengths):
            replay.add(episode(rows, seed))
            replay.store()  # a file for each
        index = spoiled % len(lengths)
        path = Path(name) / f"episode-{index:06d}.npz"
        before = rows_of(replay)
        spoil_file(path, spoil)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            again = Replay.load(Path(name), capacity, len(lengths))
        if not again.lost:
            assert_same_arrays(rows_of(again), before)
            return
        assert again.lost == {index}
        assert [each.category for each in warned] == [RunWarning]
        assert str(path) in str(warned[0].message)
        if capacity is None:
            left = Replay(None, None)
            for seed, rows in enumerate(lengths):
                if seed != index:
                    left.add(episode(rows, seed))
            assert_same_arrays(rows_of(again), rows_of(left))


@many
@given(count=st.integers(0, 10**15), capacity=st.none() | st.integers(1, 9))
def test_a_replay_of_which_most_is_missing_is_refused_at_once(
    folder: Any, count: Any, capacity: Any
) -> None:
    replay, error = attempt(lambda: Replay.load(folder / "nothing", capacity, count))
    if error is None:
        assert replay.num_episodes == count == 0
    else:
        assert str(folder / "nothing") in error


@many
@given(st.lists(st.sampled_from([b'{"kind": "train", "env_steps": 3}', b"{", b"", b"[1]"])))
@example([b"[" * 100_000])
@example([b'{"kind": "train", "env_steps": 1e400}'])
def test_metrics_are_lines_or_an_error_that_names_one(folder: Any, content: Any) -> None:
    (folder / "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in content))
    lines, error = attempt(lambda: read_metrics(folder))
    assert len(lines) == len(content) if error is None else "metrics.jsonl, line" in error


# Checkpoints


@pytest.fixture(scope="module")
def saved(folder: Any) -> Any:
    tensors = {
        "networks": {"weight": torch.arange(6.0).reshape(2, 3)},
        "agent": {"steps": torch.tensor([7])},
    }
    unfinished = {"obs/position": np.arange(4.0), "is_first": np.array([True, False])}
    facts = {"episodes": 3, "rng": {"state": 2**127 + 1}, "last": None}
    checkpoint = Checkpoint(100, tensors, unfinished, facts)
    path = save(folder / "checkpoints", checkpoint)
    return path, checkpoint, {file: file.read_bytes() for file in path.iterdir()}


def assert_same_checkpoint(one: Any, other: Any) -> None:
    assert (one.env_steps, one.facts) == (other.env_steps, other.facts)
    assert one.tensors.keys() == other.tensors.keys()
    for group, tensors in one.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.tensors[group][name])
    assert_same_arrays(one.episode, other.episode)


def restore(content: Any) -> None:
    for file, before in content.items():
        file.write_bytes(before)


NAMES = ["networks.safetensors", "agent.safetensors", "episode.npz", "facts.json"]


@many
@given(name=st.sampled_from([*NAMES, "manifest.json"]), spoil=damage())
def test_a_checkpoint_is_what_was_saved_or_an_error_that_names_the_file(
    saved: Any, name: Any, spoil: Any
) -> None:
    path, checkpoint, content = saved
    restore(content)
    spoil_file(path / name, spoil)
    found, error = attempt(lambda: load(path))
    if error is None:
        assert_same_checkpoint(found, checkpoint)
    else:
        assert str(path) in error


@many
@given(name=st.sampled_from(NAMES), spoil=damage())
def test_a_manifest_that_is_right_about_bad_files_does_not_help_them(
    saved: Any, name: Any, spoil: Any
) -> None:
    path, _, content = saved
    restore(content)
    spoil_file(path / name, spoil)
    manifest = json.loads((path / "manifest.json").read_text())
    bad = (path / name).read_bytes()
    manifest["files"][name] = {"bytes": len(bad), "sha256": hashlib.sha256(bad).hexdigest()}
    del manifest["sha256"]
    text = json.dumps(manifest, indent=1)
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1))
    found, error = attempt(lambda: load(path))
    assert isinstance(found, Checkpoint) if error is None else str(path) in error


@many
@given(plain | st.fixed_dictionaries({"schema": plain, "files": plain, "env_steps": plain}))
def test_any_manifest_is_refused(saved: Any, manifest: Any) -> None:
    path, _, content = saved
    restore(content)
    (path / "manifest.json").write_text(json.dumps(manifest))
    _, error = attempt(lambda: load_newest(path.parent))
    assert error is not None
    assert str(path) in error


def test_the_format_of_weights_holds_no_code(saved: Any) -> None:
    restore(saved[2])
    with safe_open(saved[0] / "networks.safetensors", "pt") as file:
        assert list(file.keys()) == ["weight"]


# Settings


def paths(values: Any, prefix: Any = ()) -> Any:
    """The way to every setting."""
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


SETTINGS = list(paths(to_dict(make_config())))


@many
@given(way=st.sampled_from(SETTINGS), value=plain)
@example(way=("behavior",), value={"\n": None})
def test_settings_of_any_type_are_a_config_or_an_error_that_names_the_setting(
    folder: Any, way: Any, value: Any
) -> None:
    config = to_dict(make_config())
    inner = config
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    read, error = attempt(RunFolder(folder).read_config)
    if error is not None:
        assert str(folder / "config.json") in error
        return
    again = from_dict(json.loads(json.dumps(to_dict(read))))
    assert json.dumps(to_dict(again)) == json.dumps(to_dict(read))
    attempt(lambda: validated(read))  # a run takes it, or refuses it in one line


@many
@given(spoil=damage())
def test_a_damaged_config_is_a_config_or_an_error_that_names_the_file(
    folder: Any, spoil: Any
) -> None:
    path = folder / "config.json"
    write_json(path, to_dict(make_config()))
    spoil_file(path, spoil)
    read, error = attempt(RunFolder(folder).read_config)
    assert isinstance(read, Config) if error is None else str(path) in error


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_settings_are_read_as_they_were_written(folder: Any, method: Any, preset: Any) -> None:
    config = make_config(method, preset)
    write_json(folder / "config.json", to_dict(config))
    assert RunFolder(folder).read_config() == config


# Agents

CARD = Card(
    *(SCHEMA, "", None, "walker_walk", None, "lsp", "fast", "proprio", 0, 16 * "0", None, 100),
    *(
        "half",
        10,
        1.0,
        1.0,
        None,
        1.0,
        ((100, 1.0),),
        None,
        None,
        None,
        "2030-01-01",
        Sums("", "", ""),
    ),
)


@many
@given(key=st.sampled_from([each.name for each in dataclasses.fields(Card)]), value=plain)
@example("env_steps", 10**4000)
@example("eval_return", float("nan"))
def test_a_card_of_any_values_is_shown_or_an_error_that_names_the_folder(
    folder: Any, key: Any, value: Any
) -> None:
    agent = folder / "agent"
    agent.mkdir(exist_ok=True)
    write_json(agent / "card.json", dataclasses.asdict(CARD) | {key: value})
    card, error = attempt(lambda: read_card(agent))
    if error is not None:
        assert str(agent) in error
        return
    lines = _described(card) + _table({"agent": card}, agent.parent)
    assert all(line.isprintable() for line in lines)


# Commands


FLAGS = ["--" + ".".join(way).replace("_", "-") for way in SETTINGS]
FLAGS += ["--steps", "--logdir", "--threads", "--device", "--video", "--force", "--trust"]
FLAGS += ["--episodes", "--out", "--seeds", "--jobs", "--reset", "--run", "--json", "--patience"]
COMMANDS = ["train", "transfer", "eval", "plot", "sweep", "reproduce", "collect", "bench"]
COMMANDS += ["tasks", "doctor", "trian", ""]
values = st.sampled_from(
    ["", "0", "-1", "3", "1e9", "nan", "-inf", "None", "True", "walker_walk", "a b", "/", "--", "é"]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@few
@given(
    command=st.sampled_from(COMMANDS),
    words=st.lists(st.sampled_from(FLAGS) | values, max_size=5),
)
@example("train", ["--preset"])
@example("train", ["--method", "lsp,dreamer"])
@example("sweep", ["--method", ","])
@example("train", ["--logdir", "a", "--logdir", "b"])
@example("train", ["@file"])
def test_any_arguments_are_a_command_or_an_error_of_one_line(command: Any, words: Any) -> None:
    parsed, error = attempt(lambda: parse([command, *words]))
    if error is None and parsed is not None:
        assert dataclasses.is_dataclass(parsed)
        if hasattr(parsed, "config"):
            attempt(lambda: validated(parsed.config))


def parse(arguments: Any) -> Any:
    """The command, or None where help was asked for."""
    try:
        return lsp.cli.main._parse_in_one_line(arguments)
    except SystemExit as stopped:
        if stopped.code:
            raise
        return None
