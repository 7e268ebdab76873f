"""The state of the global random number generators: saved, restored, and kept from what must not change it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from rollforge.state import State


def cpu_random_state() -> State:
    """The generators of torch (on the CPU), NumPy and Python, as tensors and plain data."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 # the global one is meant
    return {
        "torch": torch.get_rng_state(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has_gauss), float(gauss)),
        "python": random.getstate(),
    }


def random_state() -> State:
    """The generators of the CPU and of the current accelerator."""
    state = cpu_random_state()
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: State) -> None:
    """Restores a state that ``random_state`` returned. Generators that this machine does not have are left out."""
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


@contextmanager
def unchanged_random_state(read: Callable[[], State] = random_state) -> Iterator[None]:
    """Restores the generators after a block that may draw from them."""
    state = read()
    try:
        yield
    finally:
        restore_random_state(state)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """In this block the generators of the CPU depend on ``key`` alone; after it they are what they were before."""
    with unchanged_random_state(cpu_random_state):
        for_torch, for_numpy, for_python = (int(n) for n in np.random.SeedSequence(key).generate_state(3))
        torch.default_generator.manual_seed(for_torch)
        np.random.seed(for_numpy)  # noqa: NPY002
        random.seed(for_python)
        yield
