"""From replayed sequences to the steps of a worker and the K-step segments of a manager.

Row t of a sequence holds observation t and the action that led to it, and with it the goal that
this action was taken under. So a segment that starts at row t has its K actions, rewards and
goals in rows t+1..t+K. Shapes never depend on what was sampled: rows that are none have weight 0.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Sequences(NamedTuple):
    """Sampled sequences; `step` counts 0..K-1 the actions since the goal was chosen."""

    state: Float[Tensor, "batch time state"]
    action: Float[Tensor, "batch time action"]
    goal: Float[Tensor, "batch time goal"]
    step: Int[Tensor, "batch time"]
    reward: Float[Tensor, "batch time"]
    is_first: Bool[Tensor, "batch time"]
    is_terminal: Bool[Tensor, "batch time"]


class Segments(NamedTuple):
    """What followed each choice of a goal: K steps, or fewer where the episode ended.

    `within` says which of the K steps belong to the episode, `complete` whether all do; `counts`
    also takes in episodes that ended by themselves, but not those cut off by a time limit. After
    an episode's end `state` stays at its last one. `sequence` and `start` are where each was cut
    from.
    """

    state: Float[Tensor, "steps_and_1 segments state"]
    action: Float[Tensor, "steps segments action"]
    goal: Float[Tensor, "segments goal"]
    reward: Float[Tensor, " segments"]
    within: Bool[Tensor, "steps segments"]
    terminal: Bool[Tensor, " segments"]
    complete: Bool[Tensor, " segments"]
    counts: Bool[Tensor, " segments"]
    sequence: Int[Tensor, " segments"]
    start: Int[Tensor, " segments"]


def cut_segments(sequences: Sequences, length: int) -> Segments:
    """Segments of `length` K that lie in the sequences; none crosses an episode's end.

    `reward` is the sum over the segment. There are ⌊(time - 1) / K⌋ + 1 for each sequence: all
    that are complete, and one that an episode's end cut short. Those that were not found have
    `complete` and `counts` false.
    """
    is_first = sequences.is_first
    begins = (sequences.step[:, 1:] == 0) & ~is_first[:, 1:]
    begins = begins[:, : is_first.shape[1] - length]
    # Of each row the K rows after it: which of them are of its episode, and whether it ends there.
    inside = (~is_first[:, 1:].unfold(1, length, 1)).int().cumprod(-1) > 0
    ends = (inside & sequences.is_terminal[:, 1:].unfold(1, length, 1)).any(-1)
    rank = begins * (1 + ends.int() + 2 * inside[..., -1].int())  # complete ones come first
    found, start = rank.topk((is_first.shape[1] - 1) // length + 1, dim=1)
    sequence = torch.arange(is_first.shape[0], device=start.device)[:, None].expand_as(start)
    found, start, sequence = found.flatten() > 0, start.flatten(), sequence.flatten()
    rows = start + torch.arange(length + 1, device=start.device)[:, None]
    after = sequence, rows[1:]
    within = inside[sequence, start].T & found
    terminal = (within & sequences.is_terminal[after]).any(0)
    complete = within[-1]
    return Segments(
        state=sequences.state[sequence, rows.minimum(start + within.sum(0))],
        action=sequences.action[after],
        goal=sequences.goal[sequence, rows[1]],
        reward=(within * sequences.reward[after]).sum(0),
        within=within,
        terminal=terminal,
        complete=complete,
        counts=complete | terminal,
        sequence=sequence,
        start=start,
    )


def at_the_last_step(
    reward: Float[Tensor, " segments"], segments: Segments, sequences: Sequences
) -> Float[Tensor, "batch time"]:
    """Rewards of segments, on arriving at the last state of each complete one; 0 elsewhere."""
    last = segments.start + segments.within.shape[0]
    paid = torch.zeros_like(sequences.reward)
    where = segments.sequence, last
    return paid.index_put(where, segments.complete * reward, accumulate=True)


class Steps(NamedTuple):
    """Single agent steps, one from each sequence; `weight` is 0 where an episode begins."""

    state: Float[Tensor, "batch state"]
    goal: Float[Tensor, "batch goal"]
    action: Float[Tensor, "batch action"]
    reward: Float[Tensor, " batch"]
    next_state: Float[Tensor, "batch state"]
    next_goal: Float[Tensor, "batch goal"]
    last: Bool[Tensor, " batch"]
    terminal: Bool[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


def draw_steps(
    sequences: Sequences,
    reward: Float[Tensor, "batch time"],
    length: int,
    generator: torch.Generator,
) -> Steps:
    """A random step of each sequence, with `reward` in place of the task's.

    Only rows that can be the last of a segment within the sequence are drawn, so that no step's
    reward is ever unknown. `last` marks the last step of an episode, after which no goal was
    chosen any more: `next_goal` is meaningless there.
    """
    count, time = sequences.reward.shape
    device = sequences.reward.device
    row = torch.randint(length, time - 1, (count,), generator=generator, device=device)
    each = torch.arange(count, device=device)
    return Steps(
        state=sequences.state[each, row - 1],
        goal=sequences.goal[each, row],
        action=sequences.action[each, row],
        reward=reward[each, row],
        next_state=sequences.state[each, row],
        next_goal=sequences.goal[each, row + 1],
        last=sequences.is_first[each, row + 1],
        terminal=sequences.is_terminal[each, row],
        weight=1.0 - sequences.is_first[each, row].float(),
    )
