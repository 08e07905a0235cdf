"""`lsp explore`: the exported page, and what is said where it cannot be."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from builders import short_episodes, short_run
from own_tasks import Reach
from steered import SECONDS, TIME_LIMIT, Point, knowing_networks

import lsp
from lsp.cli.main import main
from lsp.config import RuntimeConfig
from lsp.envs import make_env
from lsp.errors import UserError
from lsp.explorer import opening
from lsp.explorer.film import record, write_film
from lsp.explorer.opening import open_session
from lsp.explorer.session import EVERY, Session
from lsp.runs.spaces import spaces_of
from lsp.training.build import build_networks

PLAIN = RuntimeConfig(compile=False, threads=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Any:
    """A run on walker_walk with nothing learned."""
    path = tmp_path_factory.mktemp("explore") / "run"
    with short_episodes():
        lsp.train(short_run(), path, 0, PLAIN)
    return path


def refused(call: str, capsys: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(call.split())
    assert stopped.value.code == 2
    said: str = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def film_of(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="film">(.*?)</script>', page.read_text())
    assert found is not None
    return json.loads(found[1])


def test_a_film_has_what_was_imagined_and_what_came(tmp_path: Path) -> None:
    session = Session(knowing_networks(), Point)
    page = write_film(session, tmp_path / "page.html", "<toy>", steps=25)
    film = film_of(page)
    assert [take["name"] for take in film["takes"]][-2:] == ["skill 9", "planned"]
    assert film["seconds"] == SECONDS
    assert len(film["takes"]) == 10
    for skill, take in zip(film["skills"], film["takes"]):
        speed = np.clip(skill[:2], -1, 1)
        np.testing.assert_allclose(take["way"][-1][:2], 25 * SECONDS * speed, atol=1e-2)
        assert take["way"][0] == [0, 0, 0]
        assert len(take["way"]) == 26
        assert [fan["step"] for fan in take["fans"]] == [0, EVERY, 2 * EVERY]
        ahead = np.array(take["ahead"][0]["ways"][0])
        # Every second point of 50 steps; the model is right, so the robot walks there.
        np.testing.assert_allclose(ahead[10], take["way"][20][:2], atol=0.1)
    text = page.read_text()
    assert "<title>&lt;toy&gt;</title>" in text
    assert len(text) < 1e6


def test_a_page_loads_nothing_and_no_text_of_a_run_becomes_code(tmp_path: Path) -> None:
    session = Session(knowing_networks(), Point)
    page = write_film(session, tmp_path / "page.html", "</script><script>alert({{film}})", steps=1)
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:src|href)=[\"']|https?://|@import|fetch\(", text)
    assert text.count("<script") == 2


def test_films_end_with_their_episodes() -> None:
    takes = record(Session(knowing_networks(), Point), TIME_LIMIT + 20)["takes"]
    assert {len(take["returns"]) for take in takes} == {TIME_LIMIT}


def test_a_body_on_no_ground_is_shown_in_frames(monkeypatch: Any) -> None:
    monkeypatch.setattr("lsp.explorer.film._FRAMES", 4)
    networks = build_networks(
        spaces_of(make_env(Reach)), lsp.make_config("lsp", "debug", task="own"), "cpu"
    )
    takes = record(Session(networks, lambda: make_env(Reach)), 10)["takes"]
    assert all(take["way"] == [] for take in takes)
    assert all(len(take["frames"]) <= 5 for take in takes)
    assert all(len(take["frames"]) > len(take["returns"]) / take["every"] for take in takes)


@pytest.mark.long
def test_a_page_is_exported(run: Any, tmp_path: Path, capsys: Any) -> None:
    main(["explore", str(run), "--export", str(tmp_path / "page.html"), "--steps", "3"])
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert len(film_of(tmp_path / "page.html")["takes"]) == 10
    assert (tmp_path / "page.html").stat().st_size < 10e6


@pytest.mark.long
def test_a_page_is_served_until_it_is_interrupted(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("viser")
    pytest.importorskip("mjviser")
    command = [sys.executable, "-m", "lsp", "explore", str(run), "--port", "18900"]
    pipe = subprocess.PIPE
    serving = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    try:
        assert serving.stdout is not None
        said = next(line for line in serving.stdout if line.startswith("Open "))
        address = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert address is not None
        with urlopen(address[0], timeout=60) as answer:
            assert b"<html" in answer.read(1000)
    finally:
        serving.send_signal(signal.SIGINT)
        rest, complaints = serving.communicate(timeout=60)
    assert serving.returncode == 130
    assert "Traceback" not in rest + complaints


@pytest.mark.long
def test_another_task_of_the_family_is_opened_and_a_stranger_is_not(run: Any) -> None:
    session = open_session(run, "walker_run")
    assert session.step().step == 1
    session.close()
    with pytest.raises(UserError, match="other observations or actions"):
        open_session(run, "cheetah_run")


def test_without_the_extra_one_line_says_what_to_install(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    said = refused("explore nowhere", capsys)
    assert "needs viser and mjviser: pip install 'latent-skill-planning[explorer]'" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--port 0", "ports are 1 to 65535"),
        ("--port 65536", "ports are 1 to 65535"),
        ("--host 203.0.113.1", "--host 203.0.113.1: "),  # kept for documentation, nobody's own
    ],
)
def test_an_address_that_is_none_is_refused(
    flags: str, said: str, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: "there")
    assert said in refused(f"explore nowhere {flags}", capsys)


def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: Any
) -> None:
    session = Session(knowing_networks(), Point)
    for steps in (0, 501):
        with pytest.raises(UserError, match="1 to 500 agent steps"):
            write_film(session, tmp_path / "page.html", "toy", steps)
    with pytest.raises(UserError, match="there is no folder"):
        write_film(session, tmp_path / "nowhere" / "page.html", "toy", 1)
    assert not list(tmp_path.iterdir())
    assert "is not a run" in refused(f"explore {tmp_path} --export {tmp_path / 'a.html'}", capsys)
