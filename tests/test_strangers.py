"""Folders that somebody made to harm: what lies in them is looked at before it is opened."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unchecked import unchecked

from lsp.cli.main import main
from lsp.config import METHODS, PRESETS, Config, make_config, to_dict, validated
from lsp.errors import UserError, is_out_of_memory, shown, warn
from lsp.report.tables import read_run
from lsp.runs.checkpoint import Checkpoint, load, save
from lsp.runs.files import opened, read_arrays, read_bytes, read_json, write_bytes
from lsp.runs.folder import RunFolder
from lsp.runs.lock import Lock
from lsp.runs.metrics import MetricsLogger, read_metrics
from lsp.runs.signature import seal, sealed
from lsp.training.run_state import _check_counters


def refused(arguments: Any, capsys: Any) -> str:
    """The one line with which a command fails, within seconds."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(each) for each in arguments])
    said = str(capsys.readouterr().err)
    assert stopped.value.code == 2, said
    assert said.count("\n") == 1, said
    return said


def bound_socket(path: Path) -> None:
    # Names of sockets are short.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


NO_FILES: dict[str, Any] = {
    "pipe": os.mkfifo,
    "socket": bound_socket,
    "folder": os.mkdir,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "link to a pipe": link_to_a_pipe,
}


@pytest.fixture(params=NO_FILES)
def no_file(request: Any, tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    NO_FILES[request.param](path)
    return path


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("read", [opened, read_bytes, read_json, read_arrays])
def test_only_files_are_opened(no_file: Path, read: Any) -> None:
    with pytest.raises(UserError, match=r"config\.json is no file"):
        read(no_file)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_nothing_but_a_file_is_a_seal(no_file: Path) -> None:
    mine = no_file.with_name("mine")
    mine.write_text("{}")
    seal(mine)
    assert sealed(mine)
    beside = mine.with_name("mine.seal")
    beside.unlink()
    no_file.rename(beside)
    assert not sealed(mine)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_metrics_and_locks_are_files(no_file: Path, tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "lock"):
        no_file.rename(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} is no file"):
            Lock(tmp_path / name).acquire() if name == "lock" else MetricsLogger(tmp_path)
        (tmp_path / name).rename(no_file)


@pytest.mark.parametrize("name", ["metrics.jsonl", "lock"])
def test_what_is_appended_to_is_no_link(tmp_path: Path, name: str) -> None:
    """Else a folder could have its user's own files cut short."""
    mine = tmp_path / "mine"
    mine.write_text("no newline")
    (tmp_path / name).symlink_to(mine)
    with pytest.raises(UserError, match="no file"):
        Lock(tmp_path / name).acquire() if name == "lock" else MetricsLogger(tmp_path)
    assert mine.read_text() == "no newline"


def test_nothing_is_written_through_a_link_that_waits(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "new.tmp").symlink_to(mine)
    write_bytes(tmp_path / "new", b"new")
    assert mine.read_text() == "mine"
    assert (tmp_path / "new").read_bytes() == b"new"
    os.mkfifo(tmp_path / "new.tmp")
    write_bytes(tmp_path / "new", b"newer")
    assert (tmp_path / "new").read_bytes() == b"newer"


def test_files_beyond_a_size_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    path.touch()
    os.truncate(path, 2**40)  # no bytes of it are on the disk
    for read in (read_json, read_arrays, read_bytes):
        with pytest.raises(UserError, match=r"huge\.json has 1,099,511,627,776 bytes"):
            read(path)


def saved(folder: Path, **tensors: Any) -> Path:
    return save(folder, Checkpoint(3, tensors, {"x": np.zeros(1)}, {"episodes": 0}))


@pytest.mark.parametrize("name", ["manifest.json", "facts.json", "episode.npz"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "zeros"])
def test_a_checkpoint_is_made_of_files(tmp_path: Path, name: str, kind: str) -> None:
    path = saved(tmp_path) / name
    path.unlink()
    NO_FILES[kind](path)
    with pytest.raises(UserError, match=name):
        load(path.parent)


@contextmanager
def within_a_second() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < 1


def write_run(folder: Path, config: Config, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    values = to_dict(config)
    for way, value in changes.items():
        *sections, name = way.split("__")
        inner = values
        for section in sections:
            inner = inner[section]
        inner[name] = value
    (folder / "config.json").write_text(json.dumps(values))


SETTINGS: list[tuple[str, Any, str]] = [
    ("model__encoder", [8] * 100_000, "model.encoder must be at most 64 layers, not 100000"),
    ("policy__layers", [10**9], "policy.layers needs sizes between 1 and 8,192"),
    ("value__layers", [0], "value.layers needs sizes between 1"),
    ("skills__layers", [-5], "skills.layers needs sizes"),
    ("model__deter", 10**8, "model.deter must be at most 8,192, not 100000000"),
    ("model__hidden", 0, "model.hidden must be at least 1"),
    ("num_envs", 10**6, "num_envs must be at most 1,024"),
    ("planner__horizon", 10**9, "planner.horizon must be at most 10,000"),
    ("schedule__log_every", 10**400, "schedule.log_every must be below"),
    ("policy__learning_rate", -1.0, "policy.learning_rate must be above 0"),
    ("value__learning_rate", 0.0, "value.learning_rate must be above 0"),
    ("hiro__critic_rate", float("nan"), "hiro.critic_rate must be finite, not nan"),
    ("model__learning_rate", float("inf"), "model.learning_rate must be finite"),
    ("optimizer__clip", 0.0, "optimizer.clip must be above 0"),
    ("model__kl_scale", float("inf"), "model.kl_scale must be finite"),
    ("model__decoder_std", [0.1, float("nan")], "model.decoder_std must be finite"),
    ("task", "walker_walk\x1b[2J", r"task cannot hold control characters: 'walker_walk\x1b[2J'"),
]


@pytest.mark.parametrize(("way", "value", "said"), SETTINGS, ids=[x[0] for x in SETTINGS])
def test_settings_of_a_folder_are_checked_as_those_of_a_command(
    tmp_path: Path, way: str, value: Any, said: str, capsys: Any
) -> None:
    write_run(tmp_path / "run", make_config("lsp", "debug"), **{way: value})
    refused(["eval", tmp_path / "other"], capsys)  # all is imported now
    with unchecked(), within_a_second():
        line = refused(["eval", tmp_path / "run"], capsys)
    assert f"{tmp_path / 'run' / 'config.json'}: {said}" in line


def test_settings_of_every_method_and_preset_pass() -> None:
    for preset in PRESETS:
        for method in METHODS:
            validated(make_config(method, preset))


def test_lists_within_lists_are_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "run", make_config())
    path, deep = tmp_path / "run" / "config.json", "[" * 900 + "]" * 900
    task = json.dumps(make_config().task)
    path.write_text(path.read_text().replace(f'"task": {task}', f'"task": {deep}'))
    assert deep in path.read_text()
    with pytest.raises(UserError, match=r"config\.json"):
        RunFolder(tmp_path / "run").read_config()


FACTS: dict[str, Any] = {
    "updates": 3,
    "env_steps": 40,
    "begun": 2,
    "means_count": 1,
    "numbers": [1],
    "lengths": [4],
    "learning_since": 20,
    "seconds": 1.5,
    "last_return": None,
    "eval_return": 2.0,
}


def test_counters_of_a_run_are_taken() -> None:
    _check_counters(FACTS)
    _check_counters(FACTS | {"learning_since": None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("updates", bad) for bad in (-(10**9), -1, True, 1.0, None, "1", 10**30)),
        *(("env_steps", bad) for bad in (-1, 2.5, 10**30)),
        ("numbers", [-1]),
        ("lengths", [10**30]),
        ("learning_since", -5),
        ("learning_since", 41),
        ("seconds", float("inf")),
        ("last_return", "much"),
    ],
)
def test_counters_of_no_run_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"run|env step|numbers"):
        _check_counters(FACTS | {name: value})


ODD = ('"x"', "{}", "NaN", "Infinity", "1e999", "1" + "0" * 400, '["x"]', "[[NaN]]")


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("key", ["eval/return", "wall_hours", "time"])
def test_odd_values_in_metrics_are_one_line(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"kind": "eval", "env_steps": 3, "{key}": {value}}}\n')
    with pytest.raises(UserError, match="line 1 is damaged"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("steps", ["-1", "true", "1.5", "1" + "0" * 30])
def test_odd_steps_in_metrics_are_one_line(tmp_path: Path, steps: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"kind": "eval", "env_steps": {steps}}}\n')
    with pytest.raises(UserError, match="line 1 is damaged"):
        read_metrics(tmp_path)


def test_all_that_is_logged_is_read(tmp_path: Path) -> None:
    values = {"a/b": np.float32(1), "a/c": [1, None, 2.5], "a/d": float("nan"), "x": None}
    logger = MetricsLogger(tmp_path)
    logger.write("train", 1, values | {"a/e": np.zeros((2, 2)), "a/f": True})
    logger.close()
    (line,) = read_metrics(tmp_path)
    assert line["a/e"] == [[0, 0], [0, 0]]


@pytest.mark.parametrize("bad", ["\x1b[2J", "\r", "\n", "\x07", "\x9b", "\u202e", "\u2028"])
def test_what_steers_a_terminal_is_escaped(bad: str, capsys: Any, tmp_path: Path) -> None:
    assert shown(f"λ 64×64 'a'{bad}b") == f"λ 64×64 'a'{repr(bad)[1:-1]}b"
    line = refused(["plot", tmp_path / f"run{bad}"], capsys)
    assert bad not in line[:-1]


def test_warnings_are_escaped(capsys: Any, monkeypatch: Any) -> None:
    from lsp.cli import tasks

    monkeypatch.setattr(tasks.Tasks, "main", lambda self: warn("of a file: \x1b[2J"))
    main(["tasks"])
    assert capsys.readouterr().err == "lsp: warning: of a file: \\x1b[2J\n"


def test_labels_of_a_stranger_cannot_steer_a_terminal(tmp_path: Path) -> None:
    write_run(tmp_path, make_config(), task="own:\x1b[2J")
    with pytest.raises(UserError, match="control characters"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_no_memory_is_one_line(error: Exception, capsys: Any, monkeypatch: Any) -> None:
    from lsp.cli import tasks

    def fail(self: Any) -> None:
        raise error

    monkeypatch.setattr(tasks.Tasks, "main", fail)
    assert "not enough memory" in refused(["tasks"], capsys)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_memory_that_is_not_there_is_python_or_pytorch_saying_so() -> None:
    import torch

    for ask in (lambda: np.empty(2**60, np.uint8), lambda: torch.empty(2**60, dtype=torch.uint8)):
        with pytest.raises((MemoryError, RuntimeError)) as found:
            ask()
        assert is_out_of_memory(found.value)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", None])
def test_something_else_than_ray_is_one_line(answer: Any, monkeypatch: Any) -> None:
    import threading

    from lsp.experiments.sweep import ray_engine

    monkeypatch.setattr(ray_engine, "_PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def serve() -> None:
            with server.accept()[0] as client:
                client.recv(100)
                if answer is None:  # it says nothing, for ever
                    ended.wait(10)
                else:
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"at {address}"):
            ray_engine._check_answer(address)
        ended.set()
        thread.join()


def test_missing_weights_are_one_line(tmp_path: Path, capsys: Any) -> None:
    config = make_config("lsp", "debug")
    write_run(tmp_path / "run", replace(config, task="walker_walk").resolved())
    checkpoint = Checkpoint(3, {}, {"x": np.zeros(1)}, {"run": "0" * 16})
    save(tmp_path / "run" / "checkpoints", checkpoint)
    line = refused(["eval", tmp_path / "run"], capsys)
    assert "holds no networks.safetensors" in line
