"""The parity cases of this package, which ``tests/parity`` runs."""

from itertools import product

import torch
from parity_method import Meta, Method, Rolled, assert_close
from rollforge_memory import LongLiveRAG, MemFlow, MemRoPE


def memflow(meta: Meta) -> MemFlow:
    sizes = (meta[name] for name in ("window", "sink", "bank", "record_interval"))
    return MemFlow(*sizes, interactive="switches" in meta)


def memrope(meta: Meta) -> MemRoPE:
    return MemRoPE(meta["window"], meta["sink"], meta["ema_long"], meta["ema_short"])


def longlive_rag(meta: Meta) -> LongLiveRAG:
    return LongLiveRAG(meta["window"], meta["sink"], meta["memory"], meta["recent_exclude"])


def check_bank(found: Rolled) -> None:
    """The bank of each layer, keys as they were rotated at birth; slots that are not filled yet are zero."""
    for layer, (n, name) in product(range(found.meta["layers"]), enumerate("kv")):
        slots = found.outputs[f"bank.{layer}.{name}"].chunk(found.meta["bank"], dim=1)
        for frame, theirs in enumerate(slots, -found.meta["bank"]):
            assert_close(found.kept[frame][layer][n] if frame in found.kept else torch.zeros_like(theirs), theirs)


def check_retrieved(found: Rolled) -> None:
    """The frames that each block retrieves, the best first: what its plan reads at time 0 behind the sink."""
    sink, wanted = found.meta["sink"], found.outputs["retrieved"]
    for index, row in enumerate(wanted.tolist()):
        ours = [frame for frame, time in found.plans[index].entries() if time == 0 and frame >= sink]
        assert ours == [frame for frame in row if frame >= 0], f"block {index}"


METHODS = (
    Method("memflow", memflow, check=check_bank),
    Method("memrope", memrope),
    Method("longlive-rag", longlive_rag, check=check_retrieved),
)
