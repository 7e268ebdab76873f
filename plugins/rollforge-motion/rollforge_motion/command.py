"""``rollforge flow-error [WEIGHTS ...]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rollforge.commands.arguments import Arguments, file, number
from rollforge.commands.output import print_out
from rollforge_motion.limits import Iterations, Pairs

if TYPE_CHECKING:
    from rollforge_motion.shift import Domain
    from rollforge_motion.weights import Name

SHIPPED = "world (shipped)"


def run(arguments: list[str]) -> None:
    """Measures the end-point error of flow networks where the true motion is known."""
    parser = Arguments(
        prog="rollforge flow-error",
        description="Print the end-point error of flow networks in the procedural world or a shifted one, of things "
        "and of the ground, with 95 % intervals over pairs of frames that are 1 to 8 apart, next to no motion and DIS.",
    )
    parser.add_argument("weights", type=file, nargs="*", help="network.safetensors of rollforge fit, or others")
    parser.add_argument("--layout", choices=("tiny", "small", "large"), default="tiny", help="of these (default: tiny)")
    parser.add_argument("--domain", choices=("world", "codec", "textures"), default="codec",
        help="the world as it is, through Pocket's codec with noise (the default), or in other textures")  # fmt: skip
    parser.add_argument("--pairs", type=number(Pairs), default=200, help="of frames (default: 200)")
    parser.add_argument("--iterations", type=number(Iterations), default=12, help="of the networks (default: 12)")
    chosen = parser.parse_args(arguments)
    print_out(measured(chosen.weights, chosen.layout, chosen.domain, chosen.pairs, chosen.iterations))


def measured(weights: list[Path], layout: Name, domain: Domain, pairs: int, iterations: int) -> str:
    """The table of the command."""
    from rollforge_motion import proof
    from rollforge_motion.flow import RaftFlow

    named = {SHIPPED: RaftFlow(iterations=iterations)}
    named |= {str(each): RaftFlow(str(each), layout, iterations) for each in weights}
    tested = proof.pairs(domain, pairs)
    flows = {**proof.baselines(), **{name: flow.between for name, flow in named.items()}}
    return proof.table({name: proof.errors(flow, tested) for name, flow in flows.items()}, SHIPPED)
