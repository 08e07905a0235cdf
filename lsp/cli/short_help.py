"""`--help` of the commands that take every setting: the flags that matter; --help-all has all."""

import ast
import inspect
import textwrap
from dataclasses import field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.conf import arg

ALL = "--help-all"
FIRST = ("task", "method", "preset", "steps", "logdir", "seeds", "seed", "obs")
SETTINGS = (
    *("task", "method", "preset", "seed", "obs", "action_repeat", "num_envs", "images"),
    *("planner.horizon", "planner.skill_length", "skills.dim"),
    *("schedule.prefill", "schedule.eval_every"),
)
"""Of those of a run."""
RUNTIME = ("threads", "device", "track")


def print_short_help(name: str, command: Any) -> None:
    """Print what `--help` of a command shows, and end; `command` holds the defaults."""
    own = [each.name for each in fields(command) if each.name not in ("config", "configs")]
    parts = [(command, [x for x in own if x not in ("runtime", "execution")])]
    if hasattr(command, "execution"):
        parts.append((command.execution, [each.name for each in fields(command.execution)]))
    parts += [(command.config, list(SETTINGS)), (command.runtime, list(RUNTIME))]
    flags = {flag: _described(holder, flag) for holder, wanted in parts for flag in wanted}
    if "seeds" in flags:
        del flags["seed"]
    order = sorted(flags, key=lambda flag: FIRST.index(flag) if flag in FIRST else len(FIRST))
    shown = make_dataclass("Shown", [(flag.replace(".", "_"), *flags[flag]) for flag in order])
    about = f"{inspect.getdoc(command)}\n\nAll settings: lsp {name} {ALL}"
    tyro.cli(shown, prog=f"lsp {name}", description=about, args=["--help"])


def _described(holder: Any, flag: str) -> tuple[Any, Any]:
    """A setting's type, as a flag with its own help, and its default."""
    *path, last = flag.split(".")
    for step in path:
        holder = getattr(holder, step)
    kind = get_type_hints(type(holder))[last]
    name = ".".join(part.replace("_", "-") for part in flag.split("."))
    described = arg(name=name, help=_docstrings(type(holder))[last])
    return Annotated[kind, described], field(default=getattr(holder, last))


def _docstrings(kind: type) -> dict[str, str]:
    """Of a dataclass' fields, by name: the strings below them."""
    assert is_dataclass(kind)
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for each, after in zip(definition.body, definition.body[1:]):
        if isinstance(each, ast.AnnAssign) and isinstance(after, ast.Expr):
            assert isinstance(each.target, ast.Name)
            assert isinstance(after.value, ast.Constant)
            found[each.target.id] = inspect.cleandoc(str(after.value.value))
    return found
