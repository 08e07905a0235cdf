"""Imports point one way, some modules do without torch, and nothing can run a stranger's code."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parent.parent / "lsp"

DESIGN = PACKAGE.parent / "docs" / "developer" / "architecture.md"

# Lowest first: a package imports only from those before it, inside functions too.
PACKAGES = (
    "errors",
    "tasks",
    "rows",
    "config",
    "envs",
    "rewards",
    "models",
    "backends",
    "algorithm",
    "runs",
    "baselines",
    "report",
    "training",
    "api",
    "benchmark",
    "experiments",
    "explorer",
    "cli",
    "__init__",
    "__main__",
)
RANK = {name: rank for rank, name in enumerate(PACKAGES)}
# Whole packages, or single modules of them.
WITHOUT_TORCH = {
    "errors",
    "tasks",
    "rows",
    "config",
    "envs",
    "rewards",
    "report",
    "runs.files",
    "runs.lock",
    "runs.metrics",
    "runs.signature",
    "runs.spaces",
    "training.replay",
    "cli.doctor",
}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"torch.load", "eval", "exec", "builtins.eval", "builtins.exec"}
FORBIDDEN_CALLS |= {"torch.jit.load", "torch.hub.load", "torch.serialization.load", "__import__"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


class Module:
    """A source file: its dotted name inside the package and what it imports."""

    def __init__(self, path: Path, package: Path) -> None:
        parts = path.relative_to(package).with_suffix("").parts
        self.path = path
        self.parts = parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.unit = self.parts[0]
        # What "from ." means here, as parts inside the package.
        self.folder = parts[:-1]

    def imports(self, package: Path) -> set[str]:
        """Absolute names of all that is imported, also inside functions."""
        return {name for node in ast.walk(self.tree) for name in self._names(node, package)}

    def imports_when_loaded(self, package: Path) -> set[str]:
        """Absolute names of what is imported as soon as the module is, functions left out."""
        return {name for node in _loaded(self.tree) for name in self._names(node, package)}

    def _names(self, node: ast.AST, package: Path) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if not isinstance(node, ast.ImportFrom):
            return []
        base = (node.module or "").split(".") if node.module else []
        if node.level:
            base = [
                package.name,
                *self.folder[: len(self.folder) - node.level + 1],
                *base,
            ]
        if base == [package.name]:
            # "from lsp import agent" imports the module, "from lsp import trainer" may not.
            return [
                f"{package.name}.{alias.name}" if _exists(package, alias.name) else package.name
                for alias in node.names
            ]
        # "from lsp.runs import folder" imports a module, "from lsp.config import Config" does not.
        inside = base[:1] == [package.name]
        deeper = (*base[1:], "")
        return [".".join(base)] + [
            ".".join([*base, alias.name])
            for alias in node.names
            if inside and _exists(package.joinpath(*deeper[:-1]), alias.name)
        ]


def _exists(package: Path, name: str) -> bool:
    return (package / f"{name}.py").exists() or (package / name).is_dir()


def _loaded(node: ast.AST) -> Any:
    for child in ast.iter_child_nodes(node):
        type_checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or type_checking:
            continue
        yield child
        yield from _loaded(child)


def modules(package: Path) -> list[Module]:
    return [Module(path, package) for path in sorted(package.rglob("*.py"))]


def package_of(name: str, package: Path) -> str | None:
    """The table's name for an import: "lsp.envs.dmc" is "envs"; None outside the package."""
    first, *rest = name.split(".")
    if first != package.name:
        return None
    return rest[0] if rest else "__init__"


def layer_faults(package: Path) -> list[str]:
    faults = []
    for module in modules(package):
        if module.unit not in RANK:
            faults.append(f"{module.path.name}: {module.unit} is missing from PACKAGES")
            continue
        for name in sorted(module.imports(package)):
            other = package_of(name, package)
            if other is None or (other == module.unit and (package / other).is_dir()):
                continue
            if RANK.get(other, len(PACKAGES)) >= RANK[module.unit]:
                faults.append(f"{module.path.name} imports {name}, which is not below it")
    return faults


class Graph:
    """Which modules a module loads, by their dotted names inside the package."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.modules = {".".join(each.parts): each for each in modules(package)}

    def loaded(self, module: str, late: bool = False) -> set[str]:
        """Inside the package; with `late` inside functions too."""
        one = self.modules[module]
        names = one.imports(self.package) if late else one.imports_when_loaded(self.package)
        inside = {name for name in names if name.split(".")[0] == self.package.name}
        return {found for name in inside for found in self._resolved(name)}

    def _resolved(self, name: str) -> list[str]:
        """The module of an import, and the packages around it, which are loaded first."""
        _, *parts = name.split(".")
        around = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        return [each for each in around if each in self.modules]

    def reached(self, start: str) -> set[str]:
        """All that loading a module loads; the package's own __init__ comes first."""
        seen, queue = set(), [start, "__init__"]
        while queue:
            module = queue.pop()
            if module in self.modules and module not in seen:
                seen.add(module)
                queue += self.loaded(module)
        return seen

    def members(self, name: str) -> list[str]:
        """A module, or all of a package."""
        return [each for each in self.modules if each == name or each.startswith(f"{name}.")]


def torch_faults(package: Path) -> list[str]:
    """Modules of WITHOUT_TORCH that load torch, themselves or through what they load."""
    graph, faults = Graph(package), []
    for start in (each for name in sorted(WITHOUT_TORCH) for each in graph.members(name)):
        for module in sorted(graph.reached(start)):
            names = graph.modules[module].imports_when_loaded(package)
            if any(name.split(".")[0] == "torch" for name in names):
                faults.append(f"{start} loads torch through {module}")
    return faults


def circles(package: Path) -> list[str]:
    """Modules that import themselves through others; a package's __init__ may take its own."""
    graph = Graph(package)
    edges = {
        one: {
            other for other in graph.loaded(one, late=True) if not f"{one}.".startswith(f"{other}.")
        }
        for one in graph.modules
    }
    found, done = [], set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(" → ".join((*path[path.index(module) :], module)))
        elif module not in done:
            for other in sorted(edges[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())
    return found


def danger_faults(package: Path) -> list[str]:
    faults = []
    for module in modules(package):
        names = {name.split(".")[0] for name in module.imports(package)}
        faults += [
            f"{module.path.name} imports {name}" for name in sorted(names & FORBIDDEN_MODULES)
        ]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and _is_dangerous(node):
                faults.append(f"{module.path.name}:{node.lineno} calls {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
                names = {alias.name for alias in node.names}
                faults += [f"{module.path.name} imports torch.load"] if "load" in names else []
    return faults


def _is_dangerous(call: ast.Call) -> bool:
    if ast.unparse(call.func) in FORBIDDEN_CALLS:
        return True
    pickle = [word.value for word in call.keywords if word.arg == "allow_pickle"]
    if ast.unparse(call.func) in ("np.load", "numpy.load"):
        pickle += call.args[2:3]  # which is allow_pickle
    return any(not (isinstance(it, ast.Constant) and it.value is False) for it in pickle)


def test_imports_point_down() -> None:
    assert layer_faults(PACKAGE) == []


def test_no_module_imports_itself_through_others() -> None:
    assert circles(PACKAGE) == []


def test_the_design_page_has_the_same_order() -> None:
    table = DESIGN.read_text().split("## Packages")[1].split("##")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    names = [name.strip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert tuple(names) == PACKAGES


def test_environments_replay_and_results_load_without_torch() -> None:
    assert torch_faults(PACKAGE) == []


def test_a_runs_folder_is_read_without_networks_or_kernels() -> None:
    graph = Graph(PACKAGE)
    heavy = {"models", "backends.native", "backends.backends", "algorithm"}
    for start in graph.members("runs"):
        loaded = graph.reached(start)
        assert not [x for x in loaded if any(f"{x}.".startswith(f"{name}.") for name in heavy)]


def test_nothing_can_run_code_from_a_file() -> None:
    assert danger_faults(PACKAGE) == []


def test_no_file_is_a_drawer_for_everything() -> None:
    assert [path for path in PACKAGE.rglob("*.py") if path.stem in FORBIDDEN_NAMES] == []


def test_the_top_of_the_package_shows_its_packages() -> None:
    files = [path for path in PACKAGE.iterdir() if path.is_file()]
    assert len(files) <= 7, sorted(path.name for path in files)


def test_files_and_functions_are_short() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


def toy(folder: Path, **files: str) -> Path:
    package = folder / "lsp"
    for name, text in files.items():
        path = package / (name.replace("__slash__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


@pytest.mark.parametrize(
    "text",
    [
        "from lsp.algorithm.agent import Agent",
        "from lsp import algorithm",
        "import lsp.algorithm.agent",
        "from ..algorithm.agent import Agent",
        "from .. import algorithm",
        "def late():\n    from lsp.algorithm.agent import Agent",
        "import lsp",
    ],
)
def test_an_import_that_points_up_is_found(tmp_path: Any, text: Any) -> None:
    assert layer_faults(toy(tmp_path, models__slash__layers=text, algorithm__slash__agent="")) != []


def test_an_import_that_points_down_is_fine(tmp_path: Any) -> None:
    agent = "from lsp.models.layers import MLP\nimport torch"
    files = {"algorithm__slash__agent": agent, "models__slash__layers": ""}
    assert layer_faults(toy(tmp_path, **files)) == []


def test_relative_imports_inside_a_folder_are_resolved(tmp_path: Any) -> None:
    files = {"envs__slash__dmc": "from . import rendering\nfrom ..errors import UserError"}
    assert layer_faults(toy(tmp_path, errors="", **files)) == []
    files = {"envs__slash__dmc": "from ..algorithm import Agent"}
    assert layer_faults(toy(tmp_path, algorithm="", **files)) != []


def test_a_package_missing_from_the_table_is_found(tmp_path: Any) -> None:
    assert layer_faults(toy(tmp_path, novelty="")) != []


@pytest.mark.parametrize(
    "late", ["from lsp.runs import folder", "def late():\n    from lsp.runs.folder import it"]
)
def test_a_circle_is_found(tmp_path: Any, late: Any) -> None:
    files = {"runs__slash__files": late, "runs__slash__folder": "from lsp.runs.files import it"}
    assert circles(toy(tmp_path, **files)) != []
    files["runs__slash__files"] = ""
    assert circles(toy(tmp_path, **files)) == []


@pytest.mark.parametrize(
    "files",
    [
        {"training__slash__replay": "import torch"},
        {"training__slash__replay": "from torch import nn"},
        {"report__slash__plots": "from lsp.config import Config", "config": "import torch.nn"},
        {"envs__slash__dmc": "try:\n    import torch\nexcept ImportError:\n    pass"},
        {
            "errors": "",
            "__init__": "from lsp.algorithm.agent import Agent",
            "algorithm__slash__agent": "import torch",
        },
    ],
)
def test_torch_is_found_however_it_is_loaded(tmp_path: Any, files: Any) -> None:
    assert torch_faults(toy(tmp_path, **files)) != []


def test_torch_inside_a_function_is_fine(tmp_path: Any) -> None:
    text = "def report():\n    import torch"
    assert torch_faults(toy(tmp_path, cli__slash__doctor=text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "eval('1')",
        "exec('1')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=trusted)",
        "import numpy as np\nnp.load('x', None, True)",
        "import torch\ntorch.jit.load('x')",
        "from torch.serialization import load",
        "__import__('pickle')",
    ],
)
def test_code_that_runs_files_is_found(tmp_path: Any, text: Any) -> None:
    assert danger_faults(toy(tmp_path, errors=text)) != []


@pytest.mark.parametrize(
    "text",
    ["import torch\ntorch.nn.Linear(1, 1).eval()", "np.load('x', allow_pickle=False)"],
)
def test_code_that_is_safe_is_left_alone(tmp_path: Any, text: Any) -> None:
    assert danger_faults(toy(tmp_path, errors=text)) == []
