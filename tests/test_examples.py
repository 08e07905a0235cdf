"""The examples run, on a debug run that they share."""

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import short_episodes, short_run

import lsp
from lsp.envs import rendering_problem

EXAMPLES = Path(__file__).parents[1] / "examples"
TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("examples") / "run"
    with short_episodes():
        lsp.train(short_run(), folder, steps=200)
        yield folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_take_a_run(
    script: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [str(script), str(run)])
    runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr().out
    expected = {
        "act_in_task": "in 100 env steps",
        "hold_skills": "z = [-1.5  0.   0. ]: a return of",
        "plan_by_hand": "toy: the planned skills are [[ 1.  -0.5",
    }
    assert expected[script.stem] in said


def test_planning_by_hand_finds_better_plans(run: Path) -> None:
    example = runpy.run_path(str(EXAMPLES / "plan_by_hand.py"))
    np.testing.assert_allclose(example["plan_on_a_toy"](), [[1, -0.5, 0]] * 2, atol=0.02)
    skills, first, last = example["plan_on_a_run"](str(run))
    assert skills.shape == (1, 3)
    assert last > first


def code_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(x["source"]) for x in cells if x["cell_type"] == "code")


@pytest.mark.skipif(rendering_problem() is not None, reason=str(rendering_problem()))
def test_the_notebook_films_skills(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its cells, in order and in one namespace; without a Jupyter kernel, which only displays.
    script = tmp_path / "cells.py"
    script.write_text(code_of(EXAMPLES / "film_skills.ipynb"))
    monkeypatch.setenv("LSP_RUN", str(run))
    cells = runpy.run_path(str(script))
    assert cells["frames"][0].shape == cells["frames"][2].shape
    films = sorted(path.name for path in (run / "films").iterdir())
    assert films == ["one.mp4", "other.mp4", "planned.mp4"]


# imageio leaves the pipes to ffmpeg to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_first_runs_notebook_trains_and_holds_skills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "cells.py"
    script.write_text(code_of(EXAMPLES / "first_run.ipynb"))
    chosen = {"RUN": str(tmp_path / "run"), "PRESET": "debug", "STEPS": "400"}
    for name, value in chosen.items():
        monkeypatch.setenv(f"LSP_{name}", value)
    with short_episodes():
        cells = runpy.run_path(str(script))
    assert list(cells["returns"]) == [-1.5, 0, 1.5]
    assert len(cells["frames"]) == (6 if rendering_problem() is None else 0)
    assert (tmp_path / "run" / "curve.png").exists()


def test_a_notebook_installs_what_lacks_from_the_named_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = json.loads((EXAMPLES / "first_run.ipynb").read_text())["cells"]
    script, calls = tmp_path / "cell.py", list[Any]()
    script.write_text(next("".join(x["source"]) for x in cells if x["cell_type"] == "code"))
    monkeypatch.setattr("subprocess.run", lambda command, check: calls.append(command))
    runpy.run_path(str(script))
    assert calls == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("LSP_SOURCE", "here")
    runpy.run_path(str(script))
    assert calls == [[sys.executable, "-m", "pip", "install", "--quiet", "here"]]


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    assert [x["outputs"] for x in cells if x["cell_type"] == "code" and x["outputs"]] == []


def blocks_of(tutorial: str) -> list[str]:
    """The Python code of a tutorial."""
    text = (TUTORIALS / tutorial).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_tutorial_plans_skills(run: Path, tmp_path: Path) -> None:
    code = "\n".join(blocks_of("plan_skills.md"))
    assert code.count("runs/walker_walk-lsp") == 1
    script = tmp_path / "tutorial.py"
    script.write_text(code.replace("runs/walker_walk-lsp", str(run)))
    names = runpy.run_path(str(script))
    assert names["first_skill"].shape == (3,)
    assert names["action"].shape == names["env"].action_space.shape


def test_the_tutorials_own_task_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, use = blocks_of("your_own_task.md")
    assert "lsp.train(make_env" in use
    (tmp_path / "point.py").write_text(task)
    monkeypatch.chdir(tmp_path)
    config = lsp.make_config("lsp", "debug", **{"schedule.eval-every": 0})
    assert lsp.train("point:make_env", "run", steps=400, config=config)
    assert lsp.evaluate("run", episodes=1).lengths == [200]
