"""What an update learns from: B data sequences, from one replay or two."""

import numpy as np

from lsp.training.parts import Parts


def draw_batch(parts: Parts) -> dict[str, np.ndarray]:
    """Sequences `[batch, time, ...]`, some of them the source's where its replay is kept.

    Those from the run's own replay come first; `is_paid` says whose rewards are learned.
    """
    replay, own = parts.config.replay, parts.config.own_sequences
    batch = _own_sequences(parts, own)
    if parts.source_replay is None:
        return batch
    batch["is_paid"] = np.ones_like(batch["is_first"])
    others = parts.source_replay.sample(replay.batch - own, replay.length, parts.sampler)
    return {key: np.concatenate([rows, others[key]]) for key, rows in batch.items()}


def _own_sequences(parts: Parts, count: int) -> dict[str, np.ndarray]:
    """From the run's own replay.

    Of a relabelled one a share is from the new task's episodes, once there is a whole one (Ball et
    al. 2023, RLPD).
    """
    config, length, sampler = parts.config, parts.config.replay.length, parts.sampler
    collector = parts.collector
    new = collector.env_steps // config.action_repeat - collector.rows_under_way
    share = round((config.transfer.new_share or 0) * count) if new >= length else 0
    batch = parts.replay.sample(count - share, length, sampler)
    if share == 0:
        return batch
    newest = parts.replay.sample(share, length, sampler, newest=new)
    return {key: np.concatenate([rows, newest[key]]) for key, rows in batch.items()}
