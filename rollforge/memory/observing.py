"""What a cache policy observes of a forward pass, gathered while the network runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import Tensor

from rollforge.spec import Seen

OF_BLOCKS = frozenset({"latents", "pixels"})  # fields of ``Seen`` that are of blocks and not of layers


class Watch:
    """Gathers queries, keys and text keys of some layers.

    Args:
        layers: the layers that are watched.
        names: the fields of ``Seen`` that are requested.
        whole: those of them that are requested for each token; of the others the mean over tokens is taken at once.
        tokens: tokens of a frame.
    """

    def __init__(self, layers: Collection[int], names: Collection[str], whole: Collection[str], tokens: int) -> None:
        self.layers, self.names, self.whole, self.tokens = frozenset(layers), {*names}, {*whole}, tokens
        self._seen: dict[int, dict[str, Tensor]] = {}

    def attended(self, layer: int, q: Tensor, k: Tensor, rotate: Callable[[Tensor], Tensor]) -> None:
        """Queries and keys ``[B, F * tokens, heads, head_dim]`` before rotation, and what rotates them."""
        if layer in self.layers:
            found = {"q": lambda: q, "k": lambda: k, "q_rotated": lambda: rotate(q), "k_rotated": lambda: rotate(k)}
            for name in self.names & found.keys():
                frames = found[name]().unflatten(1, (-1, self.tokens))
                self._note(layer, name, frames.clone() if name in self.whole else frames.mean(2))

    def text(self, layer: int, k: Tensor) -> None:
        """Keys ``[B, L, heads, head_dim]`` of the text."""
        if layer in self.layers and "text_k" in self.names:
            self._note(layer, "text_k", k if "text_k" in self.whole else k.mean(1))

    @property
    def lacking(self) -> set[str]:
        """What no layer has provided since the last call of ``take``."""
        return (self.names - OF_BLOCKS).difference(*self._seen.values())

    def take(self) -> Mapping[int, Seen]:
        """What was observed in each layer since the last call."""
        seen, self._seen = self._seen, {}
        return {layer: Seen(**fields) for layer, fields in sorted(seen.items())}

    def _note(self, layer: int, name: str, value: Tensor) -> None:
        self._seen.setdefault(layer, {})[name] = value.detach()
