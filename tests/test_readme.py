"""The README stays within its bounds, its commands run, and its numbers are those of the tables."""

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
from unchecked import unchecked

import lsp
from lsp.cli.main import main
from lsp.envs import rendering_problem

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_WORDS, MOST_NUMBERS = 900, 80
CODE = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    line for kind, text in CODE if not kind for line in text.splitlines() if line.startswith("lsp ")
]
# Modules that the README's reader would have written.
REWARD = "def swing(observations, actions):\n    return observations['position'][:, 1]\n"
ROBOT = "from own_tasks import Reach\n\n\ndef make_arm():\n    return Reach()\n"


def test_it_stays_short() -> None:
    assert len(README.split()) <= MOST_WORDS
    assert len(re.findall(r"\d+(?:[.,]\d+)*", README)) <= MOST_NUMBERS


@pytest.mark.long
def test_numbers_of_results_are_those_of_the_tables(monkeypatch: Any, capsys: Any) -> None:
    """Of the README and of docs/results."""
    path = ROOT / "results" / "recompute.py"
    monkeypatch.setattr("sys.argv", [str(path), "--check"])
    with unchecked(), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0, f"run python results/recompute.py: {capsys.readouterr().out}"


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_episodes: Any
) -> pytest.MonkeyPatch:
    """Somebody with code of their own, and a walker in runs/walk."""
    (tmp_path / "my_rewards.py").write_text(REWARD)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "robots.py").write_text(ROBOT)
    monkeypatch.setattr("lsp.experiments.skills.above._PIXELS", 96)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with unchecked():
        lsp.train(lsp.make_config("lsp", "debug", task="quadruped_upright_walk"), "runs/walk", 200)
    return monkeypatch


def shortened(command: str) -> list[str]:
    """The command's arguments at debug size."""
    name, *rest = shlex.split(command.removeprefix("lsp "))
    sizes = {
        "train": ["--preset", "debug", "--steps", "200"],
        "transfer": ["--steps", "200", "--updates", "2"],
        "eval": ["--episodes", "1"],
        "skills": ["--hold", "2", "--grid", "4", "--repeats", "1"],
    }
    if "--steps" in rest:
        place = rest.index("--steps")
        del rest[place : place + 2]
    added = sizes.get(name, [])
    return [name, *rest, *(added if "--relabel" in rest else _without_updates(added))]


def _without_updates(added: list[str]) -> list[str]:
    return added[: added.index("--updates")] if "--updates" in added else added


@pytest.mark.long
@pytest.mark.skipif(rendering_problem() is not None, reason=str(rendering_problem()))
def test_its_commands_run(reader: Any, capsys: Any) -> None:
    assert len(COMMANDS) >= 9
    served: list[Any] = []  # a page that is served ends when somebody ends it
    reader.setattr("lsp.explorer.page.Page.run", lambda page: served.append(page.address))
    for command in COMMANDS:
        with unchecked():  # other tests check what the commands call
            main(shortened(command))
    assert {"first", "cheetah", "hopper", "arm"} <= {path.name for path in Path("runs").iterdir()}
    said = capsys.readouterr().out
    assert "Video: " in said
    assert len(served) == 1
    assert "skills from one start end" in said


@pytest.mark.long
def test_its_python_runs(tmp_path: Path, monkeypatch: Any, short_episodes: Any) -> None:
    (code,) = (text for kind, text in CODE if kind == "python")
    monkeypatch.chdir(tmp_path)
    small = code.replace('"fast"', '"debug"').replace("30_000", "200")
    assert small != code
    names: dict[str, Any] = {}
    exec(compile(small, "README.md", "exec"), names)  # noqa: S102
    assert names["action"].shape == (6,)
