"""Rows 4 to 7 and 13: files that are cut, flipped, lost, or made by somebody malicious."""

import hashlib
import json
import os
import pickle
import random
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from processes import command, metric_lines, steps_saved, train_here

from lsp.cli.main import main
from lsp.errors import RunWarning, UserError
from lsp.runs.checkpoint import load, load_newest, save

STEPS = 600


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Any:
    """A run with three checkpoints and some episodes."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_here(folder, STEPS)
    return folder


@pytest.fixture
def run(trained: Any, tmp_path: Any) -> Any:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def resume(run: Any, capsys: Any, steps: Any = STEPS + 200) -> Any:
    """What the same command says on stderr while it goes on to the end."""
    capsys.readouterr()
    main(command(run, steps))
    assert steps_saved(run)[0] >= steps
    return capsys.readouterr().err


def refused(arguments: Any, capsys: Any) -> Any:
    """The one line with which it fails."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(each) for each in arguments])
    said = capsys.readouterr().err
    assert stopped.value.code == 2, said
    lines = [line for line in said.splitlines() if not line.startswith("lsp: warning: ")]
    assert len(lines) == 1, said
    return lines[0]


def newest(run: Any, back: Any = 0) -> Any:
    return sorted((run / "checkpoints").glob("step-*"), reverse=True)[back]


def files(run: Any) -> Any:
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_row_04_newest_checkpoint_truncated(run: Any, capsys: Any, count: Any, figure: Any) -> None:
    names = sorted(path.name for path in newest(run).iterdir())
    tried = names[:: count(4, 1)]
    for name in tried:
        older, path = newest(run, back=1), newest(run) / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        steps = steps_saved(run)[0] + 20
        said = resume(run, capsys, steps)
        assert f"lsp: warning: {path}" in said
        assert f"resuming from {older.name} instead" in said
    figure(4, f"{len(tried)} of {len(tried)} truncated files named, the previous checkpoint used")


def test_row_05_one_flipped_byte_in_each_file_of_a_checkpoint(
    run: Any, count: Any, figure: Any
) -> None:
    rng, flips, found = random.Random(0), 0, 0
    checkpoint = newest(run)
    for path in sorted(checkpoint.iterdir()):
        content = path.read_bytes()
        positions = rng.sample(range(len(content)), min(count(15, 300), len(content)))
        for position in [0, len(content) - 1, *positions]:
            flipped = bytearray(content)
            flipped[position] ^= rng.randrange(1, 256)
            path.write_bytes(flipped)
            flips += 1
            with pytest.raises(UserError, match=str(checkpoint)):
                load(checkpoint)
            found += 1
        path.write_bytes(content)
        assert load(checkpoint).env_steps == steps_saved(run)[0]
    assert found == flips
    figure(5, f"{found} of {flips} flipped bytes found")


def test_row_06_a_manifest_empty_or_missing_falls_back(run: Any, capsys: Any, figure: Any) -> None:
    spoils: tuple[Any, ...] = (lambda path: path.write_bytes(b""), lambda path: path.unlink())
    for spoil in spoils:
        older, path = newest(run, back=1), newest(run) / "manifest.json"
        spoil(path)
        said = resume(run, capsys, steps_saved(run)[0] + 20)
        assert f"lsp: warning: {path}" in said
        assert f"resuming from {older.name} instead" in said
    figure(6, "2 of 2 fell back; 3 of 3 with no checkpoint left were refused, nothing touched")


def lose_manifests(run: Any) -> None:
    for back in range(3):
        (newest(run, back) / "manifest.json").unlink()


def empty_manifests(run: Any) -> None:
    for back in range(3):
        (newest(run, back) / "manifest.json").write_bytes(b"")


def lose_checkpoints(run: Any) -> None:
    shutil.rmtree(run / "checkpoints")


@pytest.mark.parametrize("lose", [lose_manifests, empty_manifests, lose_checkpoints])
def test_row_06_it_never_starts_afresh_beside_an_old_run(run: Any, capsys: Any, lose: Any) -> None:
    lose(run)
    before = files(run)
    said = refused(command(run, STEPS + 200), capsys)
    assert str(run / "checkpoints") in said
    assert "restore" in said
    assert {path: x for path, x in files(run).items() if path.name != "lock"} == {
        path: x for path, x in before.items() if path.name != "lock"
    }


def spoil_episodes(run: Any, rng: Any, many: Any) -> Any:
    """Damage `many` of the files that the newest checkpoint counts, each in its own way."""
    loaded = load_newest(run / "checkpoints")
    assert loaded is not None
    counted = [f"episode-{number:06d}.npz" for number in range(loaded.facts["episodes"])]
    there = [run / "episodes" / name for name in counted if (run / "episodes" / name).exists()]
    paths = rng.sample(there, many)  # not those that have been set aside
    for kind, path in enumerate(paths):
        content = bytearray(path.read_bytes())
        if kind % 3 == 0:
            content[len(content) // 2] ^= 1 << rng.randrange(8)
        elif kind % 3 == 1:
            del content[len(content) // 2 :]
        else:
            content = bytearray(rng.randbytes(len(content)))
        path.write_bytes(content)
    return paths


def test_row_07_corrupt_episodes_are_set_aside_and_training_goes_on(
    run: Any, capsys: Any, count: Any, figure: Any
) -> None:
    rng, corrupt = random.Random(0), 0
    for _ in range(count(1, 5)):
        paths = spoil_episodes(run, rng, 3)
        said = resume(run, capsys, steps_saved(run)[0] + 120)
        assert all(str(path) in said for path in paths)
        corrupt += 3
        aside = run / "episodes" / "damaged"
        assert all((aside / path.name).exists() and not path.exists() for path in paths)
        assert len(list(aside.iterdir())) == corrupt
        assert metric_lines(run)[-1]["kind"] == "eval"
        last = [line for line in metric_lines(run) if line["kind"] == "train"][-1]
        assert last["episodes_lost"] == corrupt
        run_on = resume(run, capsys, steps_saved(run)[0] + 20)
        assert "left out" not in run_on  # known by now
    figure(7, f"{corrupt} of {corrupt} corrupt episodes set aside and counted, training went on")


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def with_manifest(checkpoint: Any) -> None:
    """A manifest that is right about whatever the files now hold, as an attacker can make it."""
    listed = {}
    for path in checkpoint.iterdir():
        if path.name != "manifest.json":
            content = path.read_bytes()
            total = hashlib.sha256(content).hexdigest()
            listed[path.name] = {"bytes": len(content), "sha256": total}
    manifest = {"schema": 2, "env_steps": int(checkpoint.name[5:]), "files": listed}
    text = json.dumps(manifest, indent=1)
    manifest["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest, indent=1))


def pickled_weights(run: Any, payload: Any) -> None:
    for back in range(3):
        torch.save(payload, newest(run, back) / "networks.safetensors")
        with_manifest(newest(run, back))


def raw_pickle(run: Any, payload: Any) -> None:
    for back in range(3):
        (newest(run, back) / "networks.safetensors").write_bytes(pickle.dumps(payload))
        with_manifest(newest(run, back))


def objects_in_the_unfinished_episode(run: Any, payload: Any) -> None:
    for back in range(3):
        objects = np.array([payload], dtype=object)
        np.savez(newest(run, back) / "episode.npz", action=objects)
        with_manifest(newest(run, back))


def facts_of_other_types(run: Any, payload: Any) -> None:
    for back in range(3):
        (newest(run, back) / "facts.json").write_text('{"episodes": {"__reduce__": "os.system"}}')
        with_manifest(newest(run, back))


def pickled_manifests(run: Any, payload: Any) -> None:
    for back in range(3):
        (newest(run, back) / "manifest.json").write_bytes(pickle.dumps(payload))


def objects_in_every_episode(run: Any, payload: Any) -> None:
    for path in (run / "episodes").glob("*.npz"):
        np.savez(path, env_steps=np.array([payload], dtype=object))


def pickled_config(run: Any, payload: Any) -> None:
    (run / "config.json").write_bytes(pickle.dumps(payload))


def a_task_that_is_code(run: Any, payload: Any) -> None:
    (run / "evil.py").write_text(f"open({str(payload.path)!r}, 'w')")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"task": "evil:make"}))


def a_reward_that_is_code(run: Any, payload: Any) -> None:
    (run / "evil.py").write_text(f"open({str(payload.path)!r}, 'w')")
    config = json.loads((run / "config.json").read_text())
    changes = {"task": "walker_walk", "reward": "evil:pay"}
    (run / "config.json").write_text(json.dumps(config | changes))


TRAPS = {
    pickled_weights: ("train", "eval"),
    raw_pickle: ("train", "eval"),
    objects_in_the_unfinished_episode: ("train", "eval"),
    facts_of_other_types: ("train",),
    pickled_manifests: ("train", "eval"),
    objects_in_every_episode: ("train",),
    pickled_config: ("train", "eval", "collect", "plot", "transfer", "bench"),
    a_task_that_is_code: ("eval", "bench", "transfer"),
    a_reward_that_is_code: ("eval", "bench"),
}


def commands(run: Any) -> Any:
    return {
        "train": command(run, STEPS + 200),
        "eval": ["eval", run, "--episodes", "1", "--trust"],
        "collect": ["collect", run, "--out", run.parent / "results"],
        "plot": ["plot", run, "--out", run.parent / "curve.png"],
        "bench": ["bench", "--run", run],
        "transfer": ["transfer", run, "--task", "walker_run", "--logdir", run.parent / "to"],
    }


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_row_13_malicious_files_run_no_code_and_are_refused(
    run: Any, capsys: Any, monkeypatch: Any, trap: Any, figure: Any
) -> None:
    pwned = run.parent / "pwned"
    trap(run, Payload(pwned))
    monkeypatch.chdir(run)  # where a stranger's modules would be found
    for name in TRAPS[trap]:
        arguments = commands(run)[name]
        if trap in (a_task_that_is_code, a_reward_that_is_code):
            arguments = [each for each in arguments if each != "--trust"]
        said = refused(arguments, capsys)
        assert str(run) in said, said
        assert not pwned.exists()
    shown = trap.__name__.replace("_", " ")
    figure(13, f"{shown}: refused by {', '.join(TRAPS[trap])}, no code run")


def test_row_13_the_payload_does_run_where_it_is_unpickled(tmp_path: Any) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "pwned")))  # noqa: S301
    assert (tmp_path / "pwned").exists()


def test_row_05_saving_again_replaces_what_was_damaged(run: Any) -> None:
    path = newest(run)
    checkpoint = load(path)
    (path / "facts.json").write_bytes(b"{}")
    with pytest.warns(RunWarning, match=path.name):
        load_newest(path.parent)
    save(path.parent, checkpoint)
    again = load_newest(path.parent)
    assert again is not None
    assert again.env_steps == checkpoint.env_steps
