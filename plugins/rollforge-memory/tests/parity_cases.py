"""The parity cases of this package, which ``tests/parity`` runs."""

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
    """The bank of each layer, keys as they were rotated at birth."""
    for layer in range(found.meta["layers"]):
        frames = (found.kept[n - found.meta["bank"]][layer] for n in range(found.meta["bank"]))
        for ours, name in zip(zip(*frames, strict=True), "kv", strict=True):
            assert_close(torch.cat(ours, dim=1), found.outputs[f"bank.{layer}.{name}"])


def check_retrieved(found: Rolled) -> None:
    """The frames that each block retrieves, the best first: what its plan reads at time 0 behind the sink."""
    sink, wanted = found.meta["sink"], found.outputs["retrieved"]
    for index, row in enumerate(wanted.tolist()):
        ours = [frame for frame, time in found.plans[index].entries() if time == 0 and frame >= sink]
        assert ours == [frame for frame in row if frame >= 0], f"block {index}"
    assert (wanted >= 0).any()


METHODS = (
    Method("memflow", memflow, check=check_bank),
    Method("memrope", memrope),
    Method("longlive-rag", longlive_rag, check=check_retrieved),
)
