import pytest
import torch

from mmlib import optimisers

KINDS = {
    "Adam": {"lr": 0.1, "weight_decay": 0.01, "fused": True},
    "SGD": {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9, "fused": True},
    "LBFGS": {"max_iter": 4, "line_search_fn": "strong_wolfe"},
}


def trained(kind, **options):
    """Weights after six steps, the last three by an optimiser that was restored; one weight has no gradient."""
    weight, shift, unused = torch.linspace(-1, 1, 12).reshape(3, 4), torch.ones(3), torch.ones(2)
    weights = [weight.requires_grad_(), shift.requires_grad_(), unused.requires_grad_()]

    def losses():
        optimiser.zero_grad()
        loss = (weight @ torch.arange(4.0) + shift).cos().square().sum() + weight.square().sum()
        loss.backward()
        return loss

    optimiser = kind(weights, **options)
    for number in range(6):
        if number == 3:
            kept = optimiser.state_dict()
            optimiser = kind(weights, **options)
            optimiser.load_state_dict(kept)
        optimiser.step(losses)
    assert not optimiser.state_dict()["state"].get(2), "nothing is kept of what has no gradient"
    return torch.cat([weight.detach().flatten(), shift.detach(), unused.detach()])


@pytest.mark.parametrize("name", KINDS)
def test_without_the_compiler_they_are_torchs(name):
    ours, theirs = (trained(getattr(module, name), **KINDS[name]) for module in (optimisers, torch.optim))
    assert torch.equal(ours, theirs)
    assert ours.isfinite().all() and not torch.equal(ours[:12], torch.linspace(-1, 1, 12)) and ours[-1] == 1
