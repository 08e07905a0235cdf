"""Whose a checkpoint, an episode and a folder are."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import change, short_run

import lsp
from lsp.config import Config, RuntimeConfig, TransferConfig
from lsp.errors import UserError
from lsp.runs.folder import RunFolder
from lsp.runs.lock import Lock
from lsp.training.parts import open_run
from lsp.training.replay import Replay
from lsp.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("short_episodes")

PLAIN = RuntimeConfig(compile=False, bf16=False)


def config(seed: int = 0) -> Config:
    small = change(short_run(seed=seed), schedule={"eval_episodes": 1, "save_every": 200})
    return change(small, replay={"capacity": 1000})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `a` and `b`, in one folder."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lsp.envs.dmc.MAX_CONTROL_STEPS", 100)
        for seed, name in enumerate("ab"):
            lsp.train(config(seed), folder / name, 300, PLAIN)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def transfer(runs: Path, how: TransferConfig, steps: int = 100) -> None:
    lsp.transfer(runs / "a", "walker_run", runs / "new", steps, PLAIN, transfer=how)


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def test_runs_have_ids_of_their_own_and_keep_them(runs: Path) -> None:
    one, other = RunFolder(runs / "a").id, RunFolder(runs / "b").id
    assert one != other
    assert len(one) == 16
    assert json.loads((newest(runs / "a") / "facts.json").read_text())["run"] == one
    lsp.train(config(), runs / "a", 400, PLAIN)
    assert json.loads((runs / "a" / "run.json").read_text())["id"] == one


def test_a_run_that_is_copied_or_moved_as_a_whole_goes_on(runs: Path) -> None:
    shutil.move(runs / "a", runs / "elsewhere")
    assert lsp.train(config(), runs / "elsewhere", 400, PLAIN)
    assert len(lsp.evaluate(runs / "elsewhere", 1).returns) == 1


def test_a_lost_run_json_is_made_up_for_by_the_newest_checkpoint(runs: Path) -> None:
    before = RunFolder(runs / "a").id
    (runs / "a" / "run.json").unlink()
    assert lsp.train(config(), runs / "a", 400, PLAIN)
    assert json.loads((runs / "a" / "run.json").read_text())["id"] == before


@pytest.mark.parametrize("use", ["resume", "evaluate", "transfer"])
def test_another_runs_checkpoint_is_refused(runs: Path, use: str) -> None:
    foreign = runs / "a" / "checkpoints" / "step-000000999"
    shutil.copytree(newest(runs / "b"), foreign)
    foreign.rename(foreign.with_name(newest(runs / "b").name + "9"))
    said = f"{runs / 'a' / 'checkpoints'}.* is of another run .*: remove it"
    uses: dict[str, Any] = {
        "resume": lambda: lsp.train(config(), runs / "a", 400, PLAIN),
        "evaluate": lambda: lsp.evaluate(runs / "a", 1),
        "transfer": lambda: lsp.transfer(runs / "a", "walker_run", runs / "new", 100, PLAIN),
    }
    with pytest.raises(UserError, match=said):
        uses[use]()
    assert not (runs / "new").exists()


@pytest.mark.parametrize("use", ["resume", "relabel", "keep"])
def test_another_runs_episodes_are_refused(runs: Path, use: str) -> None:
    name = "episodes/episode-000001.npz"
    shutil.copy(runs / "b" / name, runs / "a" / name)
    how = TransferConfig(relabel=use == "relabel", keep_replay=use == "keep")
    uses: dict[str, Any] = {"resume": lambda: lsp.train(config(), runs / "a", 400, PLAIN)}
    with pytest.raises(UserError, match=f"{name} is of another run .*: remove it"):
        uses.get(use, lambda: transfer(runs, how))()
    assert (runs / "a" / name).exists()


def test_kept_episodes_of_a_source_are_the_new_runs_own(runs: Path) -> None:
    how = TransferConfig(keep_replay=True)
    for steps in (100, 200):  # the second resumes
        transfer(runs, how, steps)
    folder = RunFolder(runs / "new")
    assert len(Replay.load_all(folder.source_episodes, folder.id)) > 0
    assert folder.id != RunFolder(runs / "a").id
    source = json.loads((runs / "new" / "source.json").read_text())
    assert source["run"] == RunFolder(runs / "a").id


def test_a_transfer_that_was_killed_while_it_began_begins_again(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def once(self: Trainer, kept: Any) -> None:
        raise Killed

    how = TransferConfig(keep_replay=True)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "start_from_source", once)
        patch.setattr(RunFolder, "discard", lambda self: None)
        with pytest.raises(Killed):
            transfer(runs, how)
    assert list((runs / "new" / "source_episodes").iterdir())
    transfer(runs, how)


def test_the_id_of_an_episode_is_none_of_its_arrays(runs: Path) -> None:
    folder = RunFolder(runs / "a")
    for episode in Replay.stream(folder.episodes, 3, folder.id):
        assert "run_id" not in episode
    with np.load(folder.episodes / "episode-000000.npz") as stored:
        assert stored["run_id"].tobytes().decode() == folder.id


def test_a_lock_knows_when_it_is_gone(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert not lock.is_held
    lock.acquire()
    assert lock.is_held
    (tmp_path / "lock").unlink()
    assert not lock.is_held
    (tmp_path / "lock").touch()
    assert not lock.is_held
    lock.release()


def removing_its_lock(trainer: Trainer, then: Any = lambda: None) -> Any:
    def listen(progress: Any) -> None:
        (trainer.folder.path / "lock").unlink()
        then()

    return listen


def test_a_trainer_whose_lock_is_removed_saves_and_stops(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(open_run(config(), RunFolder(runs / "a"), PLAIN))
    monkeypatch.setattr(trainer, "_can_save", lambda due: False)  # the next step finds out
    try:
        with pytest.raises(UserError, match=r"lock was removed .* saved at \d+ env steps") as said:
            trainer.run(10**6, removing_its_lock(trainer))
        steps = trainer.env_steps
    finally:
        trainer.close()
    assert f"saved at {steps} env steps" in str(said.value)
    assert newest(runs / "a").name == f"step-{steps:09d}"
    assert lsp.train(config(), runs / "a", steps + 100, PLAIN)


def test_where_another_process_trains_by_then_nothing_is_saved(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is a process elsewhere: the lock is taken."""

    def taken(self: Lock) -> None:
        raise UserError("is being trained already")

    trainer = Trainer(open_run(config(), RunFolder(runs / "a"), PLAIN))
    before = {}

    def other_begins() -> None:
        monkeypatch.setattr(Lock, "acquire", taken)
        before["newest"] = newest(runs / "a").name

    try:
        with pytest.raises(UserError, match=r"lock was removed .* up to the checkpoint at"):
            trainer.run(10**6, removing_its_lock(trainer, other_begins))
    finally:
        trainer.close()
    assert newest(runs / "a").name == before["newest"]


def test_where_another_process_has_trained_meanwhile_nothing_is_saved(runs: Path) -> None:
    trainer = Trainer(open_run(config(), RunFolder(runs / "a"), PLAIN))

    def other_was_here() -> None:
        shutil.copytree(newest(runs / "a"), runs / "a" / "checkpoints" / "step-000999999")

    try:
        with pytest.raises(UserError, match=r"lock was removed .* up to the checkpoint at"):
            trainer.run(10**6, removing_its_lock(trainer, other_was_here))
    finally:
        trainer.close()
    assert newest(runs / "a").name == "step-000999999"
