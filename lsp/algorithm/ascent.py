"""Planning by the gradient of V with respect to the skills, through the model (section 6)."""

import torch
from jaxtyping import Float
from torch import Tensor

from lsp.algorithm.cem import Evaluate, Plan, best_plans, for_all, statistics


def ascend(
    evaluate: Evaluate,
    prior: Plan,
    num_elites: int,
    noise: Float[Tensor, "candidates starts plan skill"],
    num_steps: int,
    step_size: float,
    min_std: float = 0.0,
    shared: bool = False,
) -> tuple[Plan, dict[str, Tensor]]:
    """Sample plans, imagine, sort, and climb from the best of them.

    A step has the direction of the gradient and a length of its own, which falls to nothing in
    equal parts: the size of V differs between tasks, and its gradient is noise at the top.

    Several plans climb at once: V has more than one summit where skills are to be different. The
    best of them is the mean of ζ; how far apart they are at the end says how much the choice
    matters, and is its deviation, which is `min_std` at least: they may all reach the same summit,
    and acting must go on exploring.

    Args:
        evaluate: imagines candidate plans from every start at once, and returns their values,
            differentiable in the plans; it is called with 0 and then with the numbers of the steps.
        prior: ζ(0), one for each start.
        num_elites: M, the best of the sampled plans, from which to climb.
        noise: the standard normal draws behind the sampled plans.
        num_steps: that are climbed from each.
        step_size: length of the first step, of a whole plan.
        min_std: least standard deviation of ζ.
        shared: one ζ serves all starts, the best by its mean over them.

    Returns:
        ζ, one for each start of `prior`, and statistics, as `plan` has them.
    """
    starts = prior.mean.shape[0]
    zeta = Plan(prior.mean[:1], prior.std[:1]) if shared else prior

    def values_of(plans: Tensor, step: int) -> Tensor:
        values = evaluate(plans.expand(-1, starts, -1, -1), step)
        return values.mean(1, keepdim=True) if shared else values

    # Sample G plans from p(z | ζ), and take the best M
    candidates = zeta.sample(noise)
    with torch.no_grad():
        sampled = values_of(candidates, 0)
    plans, values = best_plans(candidates, sampled, num_elites)
    for step in range(num_steps):
        # Imagine H steps with each, and go where V grows
        with torch.enable_grad():
            plans = plans.detach().requires_grad_()
            values = values_of(plans, step + 1)
            (gradient,) = torch.autograd.grad(values.sum(), plans)
        left = 1 - step / num_steps
        plans, values = plans.detach() + left * step_size * _direction(gradient), values.detach()
    best, highest = best_plans(plans, values, 1)
    spread = plans.std(0, correction=0).clamp(min=min_std)
    zeta = Plan(best[0], spread)
    stats = {"planner/first_value": sampled.mean()} | statistics(zeta, values, highest)
    return for_all(zeta, starts), stats


def _direction(
    gradient: Float[Tensor, "plans starts plan skill"],
) -> Float[Tensor, "plans starts plan skill"]:
    """Of length 1 for each plan, and 0 where there is no gradient."""
    size = gradient.square().sum((-1, -2), keepdim=True).sqrt()
    return gradient / size.clamp(min=torch.finfo(size.dtype).tiny)
