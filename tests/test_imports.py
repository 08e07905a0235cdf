"""Imports point one way, some modules do without torch, and nothing can run a stranger's code."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "lsp"

# Lowest first; a module imports only from lines above its own. A folder stands for all it holds.
# planner stands low because it gets the model as a function and knows nothing of networks.
LAYERS = (
    {"errors", "machine", "memory", "tasks"},
    {"config", "storage", "lock"},
    {"seal", "spaces"},
    {
        "nets",
        "adam",
        "draws",
        "recording",
        "distributions",
        "returns",
        "envs",
        "metrics",
        "means",
        "statistics",
    },
    {"observations", "replay", "results"},
    {"world_model", "policy", "skills", "planner", "plots", "doctor"},
    {"imagination"},
    {"anchor"},
    {"networks"},
    {"native"},
    {"acceleration"},
    {"behavior", "flops"},
    {"agent", "learner"},
    {"checkpoint"},
    {"interaction", "run"},
    {"baselines"},
    {"methods"},
    {"evaluation", "prediction", "snapshot"},
    {"trainer", "video"},
    {"adaptation"},
    {"api", "bench", "progress"},
    {"experiments"},
    {"commands"},
    {"cli"},
    {"__init__", "__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
WITHOUT_TORCH = {
    "errors",
    "machine",
    "tasks",
    "config",
    "envs",
    "replay",
    "metrics",
    "results",
    "plots",
    "storage",
}
WITHOUT_TORCH |= {"doctor", "statistics", "storage"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"torch.load", "eval", "exec", "builtins.eval", "builtins.exec"}
FORBIDDEN_CALLS |= {"torch.jit.load", "torch.hub.load", "torch.serialization.load", "__import__"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


class Module:
    """A source file: its dotted name inside the package and what it imports."""

    def __init__(self, path: Path, package: Path):
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
        return [".".join(base)]


def _exists(package: Path, name: str) -> bool:
    return (package / f"{name}.py").exists() or (package / name).is_dir()


def _loaded(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        type_checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or type_checking:
            continue
        yield child
        yield from _loaded(child)


def modules(package: Path) -> list[Module]:
    return [Module(path, package) for path in sorted(package.rglob("*.py"))]


def unit_of(name: str, package: Path) -> str | None:
    """The layer table's name for an import: "lsp.envs.dmc" is "envs"; None outside the package."""
    first, *rest = name.split(".")
    if first != package.name:
        return None
    return rest[0] if rest else "__init__"


def layer_faults(package: Path) -> list[str]:
    faults = []
    for module in modules(package):
        if module.unit not in RANK:
            faults.append(f"{module.path.name}: {module.unit} is missing from LAYERS")
            continue
        for name in sorted(module.imports(package)):
            unit = unit_of(name, package)
            if unit is None or (unit == module.unit and (package / unit).is_dir()):
                continue
            if RANK.get(unit, len(LAYERS)) >= RANK[module.unit]:
                faults.append(f"{module.path.name} imports {name}, which is not below it")
    return faults


def torch_faults(package: Path) -> list[str]:
    """Modules of WITHOUT_TORCH that load torch, themselves or through what they load."""
    loads: dict[str, set[str]] = {}
    for module in modules(package):
        loads.setdefault(module.unit, set()).update(module.imports_when_loaded(package))
    faults = []
    for start in sorted(WITHOUT_TORCH & set(loads)):
        # The package's own __init__ is loaded before any of its modules.
        seen, queue = set(), [start, "__init__"]
        while queue:
            unit = queue.pop()
            if unit in seen:
                continue
            seen.add(unit)
            for name in loads.get(unit, set()):
                if name.split(".")[0] == "torch":
                    faults.append(f"{start} loads torch through {unit}")
                inner = unit_of(name, package)
                queue += [inner] if inner else []
    return faults


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


def test_imports_point_down():
    assert layer_faults(PACKAGE) == []


def test_environments_replay_and_results_load_without_torch():
    assert torch_faults(PACKAGE) == []


def test_nothing_can_run_code_from_a_file():
    assert danger_faults(PACKAGE) == []


def test_no_file_is_a_drawer_for_everything():
    assert [path for path in PACKAGE.rglob("*.py") if path.stem in FORBIDDEN_NAMES] == []


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
        "from lsp.agent import Agent",
        "from lsp import agent",
        "import lsp.agent",
        "from .agent import Agent",
        "from . import agent",
        "def late():\n    from lsp.agent import Agent",
        "import lsp",
    ],
)
def test_an_import_that_points_up_is_found(tmp_path, text):
    assert layer_faults(toy(tmp_path, nets=text, agent="")) != []


def test_an_import_that_points_down_is_fine(tmp_path):
    files = {"agent": "from lsp.nets import MLP\nimport torch", "nets": ""}
    assert layer_faults(toy(tmp_path, **files)) == []


def test_relative_imports_inside_a_folder_are_resolved(tmp_path):
    files = {"envs__slash__dmc": "from . import rendering\nfrom ..errors import UserError"}
    assert layer_faults(toy(tmp_path, errors="", **files)) == []
    files = {"envs__slash__dmc": "from ..agent import Agent"}
    assert layer_faults(toy(tmp_path, agent="", **files)) != []


def test_a_module_missing_from_the_table_is_found(tmp_path):
    assert layer_faults(toy(tmp_path, novelty="")) != []


@pytest.mark.parametrize(
    "files",
    [
        {"replay": "import torch"},
        {"replay": "from torch import nn"},
        {"replay": "from lsp.config import Config", "config": "import torch.nn"},
        {"envs__slash__dmc": "try:\n    import torch\nexcept ImportError:\n    pass"},
        {"replay": "", "__init__": "from lsp.agent import Agent", "agent": "import torch"},
    ],
)
def test_torch_is_found_however_it_is_loaded(tmp_path, files):
    assert torch_faults(toy(tmp_path, **files)) != []


def test_torch_inside_a_function_is_fine(tmp_path):
    assert torch_faults(toy(tmp_path, doctor="def report():\n    import torch")) == []


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
def test_code_that_runs_files_is_found(tmp_path, text):
    assert danger_faults(toy(tmp_path, nets=text)) != []


@pytest.mark.parametrize(
    "text",
    ["import torch\ntorch.nn.Linear(1, 1).eval()", "np.load('x', allow_pickle=False)"],
)
def test_code_that_is_safe_is_left_alone(tmp_path, text):
    assert danger_faults(toy(tmp_path, nets=text)) == []
