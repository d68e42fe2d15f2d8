"""Wrong answers to the exercises of `04_gradient_consistency`, and a part of what each must be told."""

import torch


def ahead_by(sign=-1.0, along_fused=False, detach=(1,), at_weights=False, by_ahead=False, result_sign=1.0):
    """The right answer, or one that goes wrong in the way these options say."""

    def answer(own_loss, fused_loss, weights, step, order):
        weights = weights.clone().requires_grad_()
        loss = fused_loss if along_fused else own_loss
        (inner,) = torch.autograd.grad(loss(weights), weights, create_graph=True)
        ahead = weights + sign * step * (inner.detach() if order in detach else inner)
        judged = fused_loss(weights if at_weights else ahead)
        (gradient,) = torch.autograd.grad(judged, ahead if by_ahead else weights)
        return ahead.detach(), result_sign * gradient

    return answer


def in_place(own_loss, fused_loss, weights, step, order):
    found = ahead_by()(own_loss, fused_loss, weights, step, order)
    weights -= 0.1
    return found


WRONG = {
    "step_ahead": [
        (ahead_by(sign=1.0), "goes uphill"),
        (ahead_by(along_fused=True), "goes down the fused loss"),
        (ahead_by(detach=()), "With order 1 the gradient still goes through"),
        (ahead_by(detach=(1, 2)), "With order 2 the gradient must depend"),
        (ahead_by(by_ahead=True), "not to the point ahead"),
        (ahead_by(at_weights=True), "not at the point ahead"),
        (ahead_by(result_sign=-1.0), "wrong sign"),
        (lambda *given: ahead_by()(*given)[1], "two tensors of the weights' shape"),
        (in_place, "It changes what it is given"),
    ],
    "predicted_change": [
        (lambda own, fused, step: step * sum(own[k] @ fused[k] for k in own), "The loss would rise"),
        (lambda own, fused, step: -sum(own[k] @ fused[k] for k in own), "The step α is missing"),
        (lambda own, fused, step: -step * own["left"] @ fused["left"], "Only one modality"),
        (lambda own, fused, step: -step * sum(own[k] @ fused[k] for k in own) / len(own), "averages over the modal"),
        (
            lambda own, fused, step: -step * sum(torch.cosine_similarity(own[k], fused[k], dim=0) for k in own),
            "a cosine forgets the lengths",
        ),
        (lambda own, fused, step: -step * torch.stack([own[k] @ fused[k] for k in own]), "one number for all"),
        (
            lambda own, fused, step: -step * sum(a @ b for a, b in zip(own.values(), fused.values(), strict=True)),
            "RuntimeError",
        ),
        (lambda own, fused, step: -0.1 * sum(own[k] @ fused[k] for k in own), "use the step that it is given"),
    ],
}
