"""What `import lsp` offers: known to people, to tab completion and to type checkers."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lsp
from lsp.config import make_config, setting_names
from lsp.errors import UserError

ROOT = Path(lsp.__file__).parent.parent


def test_all_names_can_be_completed_and_taken() -> None:
    assert set(lsp.__all__) <= set(dir(lsp))
    for name in lsp.__all__:
        assert getattr(lsp, name).__doc__


def test_type_checkers_are_told_the_same_names() -> None:
    tree = ast.parse(Path(lsp.__file__).read_text())
    (block,) = (x for x in tree.body if isinstance(x, ast.If))
    imports: list[Any] = block.body
    told = {alias.name: x.module for x in imports for alias in x.names}
    assert told == {name: f"lsp.{where}" for name, where in lsp._WHERE.items()}
    assert sorted(told) == lsp.__all__


@pytest.mark.long
@pytest.mark.parametrize(
    "module", ["lsp", "lsp.envs.lookup", "lsp.runs.metrics", "lsp.report.tables", "lsp.runs.spaces"]
)
def test_importing_it_loads_no_torch(module: Any) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.long
def test_importing_it_loads_no_simulator_either() -> None:
    code = "import sys, lsp; assert 'dm_control' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def refused_by_type_checkers() -> None:
    """`make lint` fails where one of these is not refused: an ignored error must be one."""
    lsp.train(42, "runs/a", nonsense=True)  # type: ignore[arg-type, call-arg]
    lsp.make_config("lsp", preset=3)  # type: ignore[arg-type]
    lsp.Config()  # type: ignore[call-arg]
    lsp.lod("runs/a")  # type: ignore[attr-defined]


def test_type_checkers_outside_read_the_types_of_the_package() -> None:
    assert (Path(lsp.__file__).parent / "py.typed").is_file()
    assert '"lsp" = ["py.typed", ' in (ROOT / "pyproject.toml").read_text()


def test_settings_go_by_their_command_line_names() -> None:
    config = make_config("lsp", "debug", task="cheetah_run", **{"planner.num-elites": 1})
    assert (config.task, config.planner.num_elites) == ("cheetah_run", 1)
    assert make_config("lsp", "debug", **{"model.learning_rate": 1}).model.learning_rate == 1.0
    assert {"task", "planner.num_elites", "model.learning_rate"} <= set(setting_names(config))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"planner.horizn": 1}, "did you mean planner.horizon"),
        ({"horizon": 1}, "no setting 'horizon': did you mean"),
        ({"nonsense": 1}, "lsp train --help-all lists them"),
        ({"planner.horizon": "far"}, "horizon cannot be 'far'"),
        ({"planner": 3}, "expected settings by name"),
        ({"planner.horizon.far": 3}, "no setting 'planner.horizon.far'"),
    ],
)
def test_settings_that_there_are_not_are_refused(settings: Any, complaint: Any) -> None:
    with pytest.raises(UserError, match=complaint):
        make_config(**settings)


def test_no_settings_have_the_name_of_one_preset_and_the_numbers_of_another() -> None:
    with pytest.raises(TypeError, match="preset"):
        lsp.Config()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="model"):
        lsp.Config(preset="fast")  # type: ignore[call-arg]
