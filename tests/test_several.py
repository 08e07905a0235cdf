"""Several environments at once, and what there is one of."""

from typing import Any

import gymnasium
import pytest
from own_tasks import Reach

from lsp.envs.several import close, several
from lsp.errors import UserError


class Closing(gymnasium.Wrapper):
    """Counts those that are open."""

    open = 0

    def __init__(self, error: type[Exception] = UserError, most: int = 2) -> None:
        if Closing.open >= most:
            raise error("the port is in use")
        super().__init__(Reach())
        Closing.open += 1

    def close(self) -> None:
        Closing.open -= 1


@pytest.fixture(autouse=True)
def none_open() -> None:
    Closing.open = 0


def test_all_or_none_are_open() -> None:
    envs = several(Closing, 2)
    assert (len(envs), Closing.open) == (2, 2)
    close(envs)
    assert Closing.open == 0
    with pytest.raises(UserError, match=r"takes 3 environments at once, .* only 2 \(the port"):
        several(Closing, 3)
    assert Closing.open == 0


def test_all_are_closed_though_one_does_not_close() -> None:
    class Stuck(Closing):
        def close(self) -> None:
            raise OSError("it does not close")

    close([Stuck(), Closing()])
    assert Closing.open == 1


def test_fewer_serve_who_can_do_with_fewer() -> None:
    assert len(several(Closing, 3, fewer=True)) == 2


@pytest.mark.parametrize("fewer", [False, True])
@pytest.mark.parametrize(("error", "most"), [(UserError, 0), (KeyError, 1)])
def test_none_at_all_and_other_errors_are_said_as_they_are(
    error: type[Exception], most: int, fewer: bool
) -> None:
    with pytest.raises(error) as raised:
        several(lambda: Closing(error, most), 2, fewer)
    assert raised.value.args == ("the port is in use",)
    assert Closing.open == 0


def test_skills_and_foresight_say_how_many_they_need(tmp_path: Any, monkeypatch: Any) -> None:
    import lsp

    reach = lsp.make_config("lsp", "debug", task="own_tasks:Reach")
    lsp.train(reach, tmp_path / "run", 400)
    monkeypatch.setattr("lsp.envs.custom._make", lambda *_: Closing(most=1))
    with pytest.raises(UserError, match="24 environments at once, and there can be only 1"):
        lsp.foresee(tmp_path / "run")
    Closing.open = 0
    with pytest.raises(UserError, match="27 environments at once, and there can be only 1"):
        lsp.show_skills(tmp_path / "run")
