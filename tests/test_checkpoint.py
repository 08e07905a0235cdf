"""Checkpoints survive damage to the newest, and say so when all are lost."""

import hashlib
import json
import os
from typing import Any

import numpy as np
import pytest
import torch

from lsp.errors import RunWarning, UserError
from lsp.runs.checkpoint import Checkpoint, load, load_newest, save


def make_checkpoint(env_steps: Any) -> Any:
    tensors = {
        "networks": {"layer.weight": torch.arange(6.0).reshape(2, 3).t() + env_steps},
        "agent": {"empty": torch.zeros(1, 0), "steps": torch.tensor([7])},
        "optimizers": {},
    }
    episode = {"obs/position": np.arange(4.0), "is_first": np.array([True, False])}
    facts = {"env_steps": env_steps, "rng": {"state": 2**127 + 1}, "last": None, "share": 0.1}
    return Checkpoint(env_steps, tensors, episode, facts)


def assert_equal(one: Any, other: Any) -> None:
    assert one.env_steps == other.env_steps
    assert one.facts == other.facts
    assert one.tensors.keys() == other.tensors.keys()
    for group, tensors in one.tensors.items():
        assert tensors.keys() == other.tensors[group].keys()
        for name, tensor in tensors.items():
            assert tensor.dtype == other.tensors[group][name].dtype
            assert torch.equal(tensor, other.tensors[group][name])
    assert one.episode.keys() == other.episode.keys()
    for name, array in one.episode.items():
        np.testing.assert_array_equal(array, other.episode[name])


def flip_a_byte(path: Any) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_what_is_loaded(tmp_path: Any) -> None:
    saved = make_checkpoint(100)
    assert_equal(saved, load(save(tmp_path, saved)))


def test_a_folder_without_checkpoints_has_no_newest(tmp_path: Any) -> None:
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "missing") is None


def test_the_newest_is_the_one_of_most_env_steps(tmp_path: Any) -> None:
    for env_steps in (900, 10_000, 2000):
        save(tmp_path, make_checkpoint(env_steps))
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.env_steps == 10_000


def test_the_newest_three_are_kept(tmp_path: Any) -> None:
    for env_steps in (100, 200, 300, 400, 500):
        save(tmp_path, make_checkpoint(env_steps))
    assert [load(path).env_steps for path in sorted(tmp_path.iterdir())] == [300, 400, 500]


def test_saving_twice_at_one_step_keeps_the_second(tmp_path: Any) -> None:
    save(tmp_path, make_checkpoint(100))
    save(tmp_path, make_checkpoint(100)._replace(facts={"second": True}))
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.facts == {"second": True}


FILES = ["networks.safetensors", "agent.safetensors", "episode.npz", "facts.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "removed", "cut"])
def test_damage_to_the_newest_falls_back_to_the_one_before(
    tmp_path: Any, name: Any, damage: Any
) -> None:
    older, newer = make_checkpoint(100), make_checkpoint(200)
    save(tmp_path, older)
    path = save(tmp_path, newer) / name
    if damage == "flipped":
        flip_a_byte(path)
    elif damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.warns(RunWarning, match=f"step-000000200/{name} .*step-000000100 instead"):
        found = load_newest(tmp_path)
    assert found is not None
    assert_equal(found, older)


def test_every_byte_of_the_manifest_counts(tmp_path: Any) -> None:
    path = save(tmp_path, make_checkpoint(100)) / "manifest.json"
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in (0, 5):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            path.write_bytes(flipped)
            with pytest.raises(UserError, match=r"manifest\.json|schema"):
                load(path.parent)


@pytest.mark.parametrize("schema", [1, 7])
def test_a_checkpoint_of_another_version_says_so(tmp_path: Any, schema: Any) -> None:
    path = save(tmp_path, make_checkpoint(100))
    (path / "manifest.json").write_text(json.dumps({"schema": schema}))
    with pytest.raises(UserError, match=f"schema {schema}, this version of lsp reads 2"):
        load(path)


def test_a_manifest_cannot_send_the_reader_elsewhere(tmp_path: Any) -> None:
    """Not even one whose own sum is right."""
    path = save(tmp_path, make_checkpoint(100))
    (tmp_path / "secret").write_text("precious")
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"]["../secret"] = manifest["files"]["facts.json"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1))
    with pytest.raises(UserError, match=r"\.\./secret is missing or damaged"):
        load(path)


def test_a_file_that_the_manifest_does_not_list_is_not_read(tmp_path: Any) -> None:
    path = save(tmp_path, make_checkpoint(100))
    (path / "more.safetensors").write_bytes((path / "agent.safetensors").read_bytes())
    assert "more" not in load(path).tensors


def test_nothing_is_pruned_for_a_checkpoint_that_does_not_verify(
    tmp_path: Any, monkeypatch: Any
) -> None:
    for env_steps in (100, 200, 300):
        save(tmp_path, make_checkpoint(env_steps))

    def rename_and_flip(path: Any, target: Any) -> None:
        os.rename(path, target)
        flip_a_byte(target / "networks.safetensors")

    monkeypatch.setattr("lsp.runs.checkpoint.Path.rename", rename_and_flip)
    with pytest.raises(UserError, match=r"step-000000400/networks\.safetensors"):
        save(tmp_path, make_checkpoint(400))
    assert [load(tmp_path / f"step-{n:09d}").env_steps for n in (100, 200, 300)] == [100, 200, 300]


def test_damaged_checkpoints_of_later_steps_do_not_push_out_good_ones(tmp_path: Any) -> None:
    for env_steps in (700, 800, 900):
        flip_a_byte(save(tmp_path, make_checkpoint(env_steps)) / "facts.json")
    save(tmp_path, make_checkpoint(100))
    save(tmp_path, make_checkpoint(200))
    with pytest.warns(RunWarning):
        newest = load_newest(tmp_path)
    assert newest is not None
    assert newest.env_steps == 200


def test_what_a_killed_save_left_behind_is_removed(tmp_path: Any) -> None:
    save(tmp_path, make_checkpoint(200)).rename(tmp_path / "tmp-step-000000200")
    save(tmp_path, make_checkpoint(300))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000300"]


def test_a_half_written_checkpoint_is_not_seen(tmp_path: Any) -> None:
    save(tmp_path, make_checkpoint(100))
    save(tmp_path, make_checkpoint(200)).rename(tmp_path / "tmp-step-000000200")
    found = load_newest(tmp_path)
    assert found is not None
    assert found.env_steps == 100


def test_where_all_are_damaged_the_error_names_each_file(tmp_path: Any) -> None:
    for env_steps in (100, 200):
        flip_a_byte(save(tmp_path, make_checkpoint(env_steps)) / "networks.safetensors")
    with pytest.raises(UserError) as caught:
        load_newest(tmp_path)
    for env_steps in (100, 200):
        assert f"step-{env_steps:09d}/networks.safetensors" in str(caught.value)


def test_a_folder_that_cannot_be_read_is_not_taken_for_empty(tmp_path: Any) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UserError, match="checkpoints cannot be read"):
        load_newest(tmp_path / "checkpoints")
