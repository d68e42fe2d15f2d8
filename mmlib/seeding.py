"""What makes numbers repeat: one random generator for each purpose, so that adding a draw in one place never changes
those in another, and one thread where rounding depends on how many there are."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_for(purpose: str, *seeds: int | str) -> int:
    """A 63-bit seed derived by hashing the purpose and the seeds (independent of process and platform)."""
    text = "\x1f".join([purpose, *map(str, seeds)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(purpose: str, *seeds: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for one purpose, e.g. `torch_generator("shuffle", seed, epoch)`."""
    return torch.Generator(device=device).manual_seed(seed_for(purpose, *seeds))


@contextmanager
def one_thread() -> Iterator[None]:
    """Computations on the CPU use one thread: sums over several round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
