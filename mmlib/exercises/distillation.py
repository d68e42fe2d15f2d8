"""Exercises of `05_cross_modal_distillation`."""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from mmlib.equations import losses
from mmlib.exercises.checking import close, exercise, shaped


def until(decay: float, share: float) -> int:
    """The kit's number of steps after which a start weighs no more than this share in an average."""
    return math.ceil(math.log(share) / math.log(decay))


@exercise(until)
def steps_to_forget(answer: Callable) -> Iterator[tuple]:
    """The smallest whole t with β^t ≤ share."""
    found = float(answer(0.99, 0.2))
    yield (
        found != 23,
        "After so many steps the teacher is a fifth mature; a fifth of the start should be left.",
        "the start weighs β to the power t, not one minus that.",
    )
    yield (
        not 80 <= found <= 100,
        "It counts as if every step took away the same share of the whole.",
        "each step takes one percent of what is *left*.",
    )
    yield found != 160, "One step too few: the start still weighs a little more.", "round up, to a whole step."
    yield found == int(found), f"It must be a whole number of steps, not {found:.2f}.", "round up: `math.ceil`."
    yield (
        found == 161,
        f"With a β of 0.99, one fifth is left after 161 steps, not {found:.0f}.",
        "solve β to the power t = share for t, with logarithms, and round up.",
    )
    yield (
        close(answer(0.5, 0.25), 2),
        "With a β of one half, two steps leave a quarter exactly, and that is no more than a quarter.",
        "round up only what is not whole, and take no approximation for log β.",
    )


def all_heads(teacher_logits: Tensor, head_logits: Mapping[str, Tensor]) -> Tensor:
    """The kit's L_dis: the sum over heads of KL(p_ema ‖ p_head), logits (B, C) each."""
    return sum(losses.distillation(teacher_logits, logits) for logits in head_logits.values())


@exercise(all_heads)
def distillation_loss(answer: Callable) -> Iterator[tuple]:
    """KL(p_ema ‖ p_mm) + Σ_k KL(p_ema ‖ p_k) [paper], mean over the batch, the teacher a constant [port]."""
    teacher = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0], [1.0, -2.0, 0.5]], requires_grad=True)
    head = torch.tensor([[0.0, 1.0, 0.0], [2.0, -1.0, 0.5], [0.0, 0.0, 1.0], [0.0, 0.5, -0.5]], requires_grad=True)
    target = teacher.detach().softmax(1)
    found = answer(teacher, {"fused": head})
    yield (
        shaped(found),
        "It must return one number, a tensor without dimensions.",
        "sum over classes, mean over samples.",
    )
    number, same = found.detach(), answer(teacher, {"fused": teacher.detach()}).detach()
    yield (
        number > 0,
        f"A Kullback-Leibler divergence is never negative; here it is {float(number):.3f}.",
        "`functional.kl_div` wants the student's *log*-probabilities first; written out, the logarithm is of p/q.",
    )
    yield (
        not close(same, losses.entropy(teacher).mean()),
        "This is a cross-entropy: a head that agrees with the teacher is still charged the teacher's own entropy.",
        "subtract the teacher's log-probability from the student's.",
    )
    yield (
        close(same, 0.0),
        f"For a head that agrees with the teacher it must be zero, not {float(same):.3f}.",
        "logarithms of probabilities, not of logits or probabilities themselves: `log_softmax` over the classes.",
    )
    right, reverse = (losses.distillation(*pair).detach() for pair in ((teacher, head), (head, teacher)))
    yield (
        not close(number, reverse),
        "This is KL(p_head ‖ p_ema): it weighs errors by what the *student* believes.",
        "the average runs over the teacher's probabilities; they stand in front.",
    )
    yield (
        not close(number, right / 3),
        "The sum over classes is averaged, too.",
        "`mean` divides by B·C; only B is meant.",
    )
    yield not close(number, 4 * right), "It grows with the batch.", "take the mean over samples."
    yield (
        close(number, right),
        f"For the logits of this check it must be {right:.3f}, not {float(number):.3f}.",
        "Σ over classes of p_ema · (log p_ema − log p_head), then the mean over samples.",
    )
    both = answer(teacher, {"fused": teacher.detach(), "left": head, "right": head})
    yield not close(both, 0.0), "The uni-modal heads learn nothing from it.", "all heads have a part in the sum."
    yield (
        close(both, 2 * right),
        "The parts of the heads must be added up.",
        "a sum over heads, not their mean or last.",
    )
    yield (
        close(answer(teacher, {"fused": head, "left": teacher.detach()}), right),
        "The fused head learns nothing from it where there are others.",
        "all heads have a part in the sum, whatever their name.",
    )
    yield (
        found.requires_grad,
        "Nothing can be learned from it: it has no gradient.",
        "detach the teacher, and it alone.",
    )
    of_teacher, of_head = torch.autograd.grad(found, (teacher, head), allow_unused=True)
    yield (
        of_teacher is None or not of_teacher.any(),
        "It sends a gradient into the teacher, who would come to meet the student.",
        "the teacher is a constant: detach its logits.",
    )
    yield (
        of_head is not None and close(of_head, (head.softmax(1) - target) / 4),
        "The gradient in the head's logits must be p_head − p_ema, divided by the number of samples.",
        "leave the head's logits as they are; no temperature, and nothing detached.",
    )
