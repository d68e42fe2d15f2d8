"""Wrong answers to the exercises of `05_cross_modal_distillation`, and a part of what each must be told."""

import math

import torch
import torch.nn.functional as F


def kl(head, teacher, reduction="batchmean"):
    return F.kl_div(head, teacher, reduction=reduction, log_target=True)


def loss(one=lambda teacher, head: kl(head, teacher), heads=None):
    """A sum over heads of a divergence of log-probabilities, the teacher's detached."""

    def answer(teacher_logits, head_logits):
        teacher = teacher_logits.detach().log_softmax(1)
        return sum(one(teacher, logits.log_softmax(1)) for logits in list(head_logits.values())[:heads])

    return answer


def with_gradient(teacher_logits, head_logits):
    teacher = teacher_logits.log_softmax(1)
    return sum(kl(head.log_softmax(1), teacher) for head in head_logits.values())


def in_eval(teacher_logits, head_logits):
    with torch.no_grad():
        return loss()(teacher_logits, head_logits)


def softened(teacher_logits, head_logits):
    return loss()(teacher_logits / 2, {name: logits / 2 for name, logits in head_logits.items()})


WRONG = {
    "steps_to_forget": [
        (lambda beta, share: math.floor(math.log(share) / math.log(beta)), "One step too few"),
        (lambda beta, share: math.log(share) / math.log(beta), "a whole number of steps"),
        (lambda beta, share: math.ceil(math.log(1 - share) / math.log(beta)), "a fifth mature"),
        (lambda beta, share: math.ceil(math.log(beta) / math.log(share)), "solve β to the power t"),
        (lambda beta, share: math.ceil((1 - share) / (1 - beta)), "what is *left*"),
        (lambda beta, share: math.ceil(math.log(share) / (beta - 1)), "take no approximation"),
        (lambda beta, share: math.ceil(math.log10(share) / math.log(beta)), "solve β to the power t"),
    ],
    "distillation_loss": [
        (loss(lambda teacher, head: kl(teacher, head)), "*student* believes"),
        (with_gradient, "gradient into the teacher"),
        (loss(lambda teacher, head: kl(head, teacher, "sum") / head.numel()), "divides by B·C"),
        (loss(lambda teacher, head: kl(head, teacher, "sum")), "grows with the batch"),
        (loss(lambda teacher, head: F.kl_div(head.exp(), teacher.exp(), reduction="batchmean")), "*log*-probabilities"),
        (loss(lambda teacher, head: F.kl_div(head, teacher.exp(), reduction="none")), "one number"),
        (loss(lambda teacher, head: -(teacher.exp() * head).sum(1).mean()), "This is a cross-entropy"),
        (loss(lambda teacher, head: (teacher.exp() - head.exp()).square().sum(1).mean()), "of this check it must be"),
        (loss(heads=1), "uni-modal heads learn nothing"),
        (lambda teacher, heads: loss()(teacher, heads) / len(heads), "not their mean or last"),
        (in_eval, "it has no gradient"),
        (softened, "of this check it must be"),
    ],
}
