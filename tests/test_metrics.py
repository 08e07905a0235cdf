import errno
import json
import math
from io import FileIO
from typing import Any

import numpy as np
import pytest

from lsp.errors import RunWarning, UserError
from lsp.runs.metrics import MetricsLogger, read_metrics


@pytest.fixture
def logger(tmp_path: Any) -> Any:
    logger = MetricsLogger(tmp_path)
    yield logger
    logger.close()


def steps(folder: Any) -> Any:
    return [line["env_steps"] for line in read_metrics(folder)]


def scalars(folder: Any) -> Any:
    """(env step, tag, value) and purge steps in the event files, oldest file first."""
    from tensorboardX.proto.event_pb2 import Event

    values, purges = [], []
    for path in sorted((folder / "tensorboard").iterdir()):
        data, start = path.read_bytes(), 0
        while start < len(data):
            # A record: length (8 bytes), its checksum (4), the event, its checksum (4).
            length = int.from_bytes(data[start : start + 8], "little")
            event = Event.FromString(data[start + 12 : start + 12 + length])
            start += length + 16
            values += [(event.step, item.tag, item.simple_value) for item in event.summary.value]
            purges += [event.step] if event.HasField("session_log") else []
    return values, purges


def test_a_line_is_on_disk_as_soon_as_it_is_written(tmp_path: Any, logger: Any) -> None:
    logger.write("eval", 1000, {"eval/return": 12.5, "eval/success": None, "eval/episodes": 10})
    (line,) = read_metrics(tmp_path)
    assert line.pop("time") > 1.6e9
    assert line == {
        "kind": "eval",
        "env_steps": 1000,
        "eval/return": 12.5,
        "eval/success": None,
        "eval/episodes": 10,
    }


def test_numpy_values_are_taken(tmp_path: Any, logger: Any) -> None:
    values = {"a": np.float32(0.5), "b": np.int64(3), "c": np.array([1.0, 2.0]), "d": (1, 2)}
    logger.write("train", 5, values)
    (line,) = read_metrics(tmp_path)
    assert (line["a"], line["b"], line["c"], line["d"]) == (0.5, 3, [1.0, 2.0], [1, 2])


def test_values_json_cannot_hold_become_null_and_are_named(tmp_path: Any, logger: Any) -> None:
    values = {"nan": math.nan, "list": [1.0, -math.inf], "fine": 1.0, "np": np.float32(np.inf)}
    logger.write("train", 1, values)
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (line["nan"], line["list"], line["fine"], line["np"]) == (None, [1.0, None], 1.0, None)
    assert line["non_finite"] == ["nan", "list", "np"]


def test_the_loggers_own_keys_and_unknown_kinds_are_refused(logger: Any) -> None:
    with pytest.raises(ValueError, match="env_steps"):
        logger.write("train", 1, {"env_steps": 2})
    with pytest.raises(ValueError, match="kind"):
        logger.write("test", 1, {"a": 2.0})


def test_scalars_reach_tensorboard(tmp_path: Any, logger: Any) -> None:
    logger.write("train", 7, {"model/kl": 2.5, "lost": math.nan, "none": None, "list": [1.0]})
    logger.write("eval", 8, {"wall_hours": 0.5})
    logger.close()
    assert scalars(tmp_path)[0] == [(7, "model/kl", 2.5), (8, "eval/wall_hours", 0.5)]


def test_truncate_forgets_what_came_after_the_checkpoint(tmp_path: Any, logger: Any) -> None:
    for step in (10, 20, 30):
        logger.write("train", step, {"a": float(step)})
    logger.truncate(20)
    logger.write("train", 25, {"a": 25.0})
    logger.close()
    assert steps(tmp_path) == [10, 20, 25]
    values, purges = scalars(tmp_path)
    assert purges == [21]
    # The second event file, begun within the same second, leaves the first one whole.
    assert [step for step, _, _ in values] == [10, 20, 30, 25]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


@pytest.mark.parametrize("torn", [b'{"kind": "train", "env_st', b"\xff\x00", b'{"a": 1}'])
def test_a_line_cut_short_by_a_crash_is_left_out_and_mended(
    tmp_path: Any, logger: Any, torn: Any
) -> None:
    logger.write("train", 10, {"a": 1.0})
    logger.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert steps(tmp_path) == [10]
    again = MetricsLogger(tmp_path)
    again.write("train", 20, {"a": 2.0})
    again.truncate(20)
    again.close()
    assert steps(tmp_path) == [10, 20]


def test_a_damaged_line_in_the_middle_is_reported_with_its_number(tmp_path: Any) -> None:
    good = '{"kind": "train", "env_steps": 1}\n'
    (tmp_path / "metrics.jsonl").write_text(good + "oops\n" + good)
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)


def test_a_folder_without_metrics_is_no_run(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="run"):
        read_metrics(tmp_path)


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        MetricsLogger(tmp_path / "file" / "run")


def test_a_resumed_run_leaves_damaged_lines_out(tmp_path: Any, logger: Any) -> None:
    for step in (10, 20, 30):
        logger.write("train", step, {"a": float(step)})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"env_steps": 20', b'"env_stepz": 20'))
    with pytest.warns(RunWarning, match=r"metrics\.jsonl, line 2 is damaged"):
        logger.truncate(30)
    assert steps(tmp_path) == [10, 30]


class AlmostFull(FileIO):
    """A file with room for so many more bytes."""

    room = 0

    def write(self, data: Any) -> Any:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = super().write(data[: self.room])
        self.room -= count
        return count


def test_lines_wait_while_the_disk_is_full_and_none_is_torn(
    tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("lsp.runs.metrics.FileIO", AlmostFull)
    monkeypatch.setattr(AlmostFull, "room", 10**6)
    logger: Any = MetricsLogger(tmp_path)
    logger.write("train", 10, {"a": 1.0})
    logger._file.room = 7
    with pytest.warns(RunWarning, match=r"metrics\.jsonl cannot be written \(No space left"):
        logger.write("train", 20, {"a": 2.0})
    logger.write("train", 30, {"a": 3.0})  # said once is enough
    assert steps(tmp_path) == [10]
    logger._file.room = 10**6
    logger.write("train", 40, {"a": 4.0})
    logger.close()
    assert steps(tmp_path) == [10, 20, 30, 40]


def test_tensorboard_that_finds_no_room_does_not_stop_a_run(
    tmp_path: Any, monkeypatch: Any
) -> None:
    logger = MetricsLogger(tmp_path)
    logger.write("train", 10, {"a/a": 1.0})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tensorboardX.record_writer.RecordWriter.write", full)
        for _ in range(30):
            logger.write("train", 20, {"a/a": 2.0})
    logger.write("train", 30, {"a/a": 3.0})
    logger.close()
    assert scalars(tmp_path)[0] == [(10, "a/a", 1.0), (30, "a/a", 3.0)]
