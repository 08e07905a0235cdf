"""What limits training on this machine, in one line."""

from typing import NamedTuple


class Findings(NamedTuple):
    """What the advice depends on.

    Attributes:
        updates_share: of the time of a training, what updates take; None where it was not trained.
        utilisation: share of the peak of matrix products that updates reach.
        bandwidth: the highest share of the memory's speed that a part of an update needs.
        kernels: whether native kernels compute, or on a GPU compiled functions.
        bf16: whether products are in bf16.
        can_bf16: whether the machine can do that.
        threads: that compute.
        cores: that there are.
        num_envs: environments that are collected from.
        on_gpu: whether it is a GPU.
    """

    updates_share: float | None
    utilisation: float
    bandwidth: float
    kernels: bool
    bf16: bool
    can_bf16: bool
    threads: int
    cores: int
    num_envs: int
    on_gpu: bool = False


def advice(found: Findings) -> str:
    """What costs most, and what to do about it."""
    if not found.kernels:
        return (
            "nothing is compiled: install a C++ compiler (g++ or clang++), or leave out "
            "--runtime.compile False"
        )
    if found.can_bf16 and not found.bf16:
        return "products are in float32: this machine is faster in bf16 (--bf16 True)"
    if found.updates_share is not None and found.updates_share < 0.5:
        share = round(100 * (1 - found.updates_share))
        return (
            f"environment and acting take {share} % of a training: collect from several "
            f"environments at once (--num-envs {max(2, 2 * found.num_envs)})"
        )
    if not found.on_gpu and found.threads < found.cores:
        return (
            f"{found.threads} of {found.cores} cores compute: more runs side by side use the "
            "others best (lsp sweep), more threads for one run a little (--threads)"
        )
    if found.bandwidth > 0.5:
        return "memory limits updates: a smaller batch or narrower layers move less"
    if found.utilisation > 0.5 or found.on_gpu:
        return "matrix products limit updates: only smaller networks or fewer updates are faster"
    if not found.bf16:
        return "products of small layers in float32 limit updates: a CPU with bf16 is faster"
    return "small layers limit updates: what is between products takes most of the time"
