"""Settings that name code are run only where they are this user's own."""

import os
import shutil
import stat
from typing import Any

import pytest

import lsp
from lsp.config import RuntimeConfig, make_config
from lsp.errors import UserError
from lsp.runs.folder import RunFolder
from lsp.runs.signature import seal, sealed

PLAIN = RuntimeConfig(compile=False, bf16=False)


@pytest.fixture
def home(tmp_path: Any, monkeypatch: Any) -> Any:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def file(tmp_path: Any) -> Any:
    path = tmp_path / "file"
    path.write_text("mine")
    return path


def test_a_sealed_file_is_known_until_it_changes(home: Any, file: Any) -> None:
    assert not sealed(file)
    seal(file)
    assert sealed(file)
    file.write_text("theirs")
    assert not sealed(file)
    seal(file)
    assert sealed(file)


def test_a_seal_of_another_key_is_none(home: Any, file: Any, monkeypatch: Any) -> None:
    seal(file)
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "another"))
    assert not sealed(file)


def test_only_the_user_can_read_the_key(home: Any, file: Any) -> None:
    seal(file)
    (key,) = (home / "latent-skill-planning").iterdir()
    assert len(key.read_bytes()) == 32
    if os.name == "posix":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_without_a_place_for_the_key_nothing_is_sealed(home: Any, file: Any) -> None:
    home.write_text("a file where the folder should be")
    seal(file)
    assert not sealed(file)
    assert not file.with_name("file.seal").exists()


def test_no_key_seals_nothing(home: Any, file: Any) -> None:
    seal(file)
    next((home / "latent-skill-planning").iterdir()).write_bytes(b"")
    file.with_name("file.seal").write_bytes(b"")
    assert not sealed(file)


@pytest.mark.long
def test_ones_own_run_is_evaluated_and_a_strangers_only_if_trusted(
    home: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    config = make_config("lsp", "debug", task="own_tasks:Reach", action_repeat=1)
    lsp.train(config, tmp_path / "run", 200, PLAIN)
    assert RunFolder(tmp_path / "run").is_own
    assert len(lsp.evaluate(tmp_path / "run", episodes=1).returns) == 1
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert RunFolder(tmp_path / "moved").is_own
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "another"))
    with pytest.raises(UserError, match=r"own_tasks:Reach.*--trust"):
        lsp.evaluate(tmp_path / "moved", episodes=1)
    assert len(lsp.evaluate(tmp_path / "moved", episodes=1, trust=True).returns) == 1
