"""The network against diffusers' own, and two experts in a rollout against attention without a cache."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from rollforge_wan22.backbone import Wan22
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from rollforge.backbones.base import Backbone, Condition
from rollforge.errors import UserError
from rollforge.memory import FullMemory, MaskedMemory, Memory, Now, RolloutMemory
from rollforge.policies import AttentionSink, CachePolicy, LongLive, RollingSink, SlidingIndices, Window
from rollforge.rollout import Rollout
from rollforge.samplers import Euler, FewStep
from rollforge.spec import Phase, ReadPlan, Step

SHAPE: dict[str, Any] = {"height": 4, "width": 4, "text_len": 8, "block": 2, "window": 6, "horizon": 6}
BOUNDARY = 875.0
SAMPLER = FewStep((1000, 900, 500, 250), shift=1.0)  # two levels for each expert


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def models(releases: dict[str, Any]) -> dict[str, Wan22]:
    return {name: Wan22(str(release.folder), **SHAPE) for name, release in releases.items()}


def latents(frames: int, seed: int = 0) -> Tensor:
    return torch.randn(2, frames, 6, 4, 4, generator=torch.Generator().manual_seed(seed))


def text(seed: int = 0) -> Condition:
    return Condition(str(seed), torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(seed)))


def original(network: Any, x: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
    """diffusers' forward of a whole video, ``timesteps`` ``[B]``, or ``[B, tokens]`` as under ``expand_timesteps``."""
    return network(x.transpose(1, 2), timesteps, condition.embeds, return_dict=False)[0].transpose(1, 2)


def alone(spec: Any, frames: int) -> RolloutMemory:
    """A memory in which one block sees itself and nothing else."""
    memory = RolloutMemory(spec, 0)
    memory.begin(Step(0, 0, frames), ReadPlan((), 0))
    return memory


@pytest.mark.parametrize(("name", "level", "expert"), [
    ("5b", 1000.0, 0), ("5b", 20.0, 0),
    ("a14b", 1000.0, 0), ("a14b", BOUNDARY, 0), ("a14b", 874.0, 1), ("a14b", 0.0, 1),
])  # fmt: skip
def test_block_that_sees_only_itself_equals_diffusers(
    models: dict[str, Wan22], releases: dict[str, Any], name: str, level: float, expert: int
) -> None:
    model, x = models[name], latents(3)
    flow = model(x, torch.full((2, 3), level), text(), alone(model.spec, 3))
    expected = original(releases[name].transformers[expert], x, torch.full((2,), level), text())
    torch.testing.assert_close(flow, expected, rtol=0, atol=1e-5)


def test_frame_with_its_own_timestep_equals_expand_timesteps(
    models: dict[str, Wan22], releases: dict[str, Any]
) -> None:
    model, x, levels = models["5b"], latents(3), torch.tensor([0.0, 750.0, 750.0])  # the first frame is given
    flow = model(x, levels.expand(2, 3), text(), alone(model.spec, 3))
    tokens = levels.repeat_interleave(model.spec.tokens).expand(2, -1)
    expected = original(releases["5b"].transformers[0], x, tokens, text())
    torch.testing.assert_close(flow, expected, rtol=0, atol=1e-5)


def test_in_pass_of_mixed_levels_each_frame_gets_its_own_expert(
    models: dict[str, Wan22], releases: dict[str, Any]
) -> None:
    model, x, levels = models["a14b"], latents(3), torch.tensor([[900.0, 875.0, 10.0], [500.0, 1000.0, 874.9]])
    flow = model(x, levels, text(), FullMemory(model.spec, range(3)))
    tokens = levels.repeat_interleave(model.spec.tokens, dim=1)
    high, low = (original(network, x, tokens, text()) for network in releases["a14b"].transformers)
    expected = torch.where((levels >= BOUNDARY)[..., None, None, None], high, low)
    torch.testing.assert_close(flow, expected, rtol=0, atol=1e-5)


def test_layers_of_the_second_expert_are_numbered_after_the_first(models: dict[str, Wan22]) -> None:
    spec, called = models["a14b"].spec, []

    class Listening(Memory):
        phase = Phase.DENOISE

        @property
        def now(self) -> Now:
            return Now(phase=self.phase)

        def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            called.append(layer)
            return v

    assert spec.layers == 4
    for phase in Phase:
        for level in (1000.0, 100.0):
            memory = Listening()
            memory.phase = phase
            models["a14b"](latents(2), torch.full((2, 2), level), text(), memory)
            both = phase is not Phase.DENOISE
            assert called == [0, 1, 2, 3] if both else called == ([0, 1] if level == 1000 else [2, 3])
            called.clear()


class Uncached:
    """Attention of diffusers' networks over all frames that a plan names: no key is stored rotated or reused so.

    Each expert has the raw keys and values of its own passes. Stands in for the attention processors of diffusers.
    """

    def __init__(self, networks: tuple[Any, ...]) -> None:
        self.networks, self.now = networks, Now()
        self.raw: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}  # (expert, layer, frame) -> keys, values
        for expert, network in enumerate(networks):
            for layer, block in enumerate(network.blocks):
                block.attn1.set_processor(lambda *args, e=expert, n=layer, **kw: self.attend(e, n, *args, **kw))

    def attend(self, expert: int, layer: int, attn: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
        now, tokens = self.now, x.shape[1] // len(self.now.frames)
        q, k = attn.norm_q(attn.to_q(x)), attn.norm_k(attn.to_k(x))
        q, k, v = (each.unflatten(-1, (attn.heads, -1)) for each in (q, k, attn.to_v(x)))
        entries = now.plan.entries() if now.plan else ()
        kept = [(*self.raw[expert, layer, frame], time) for frame, time in entries]
        keys = torch.cat([*(turned(key, [time]) for key, _, time in kept), turned(k, now.times)], dim=1)
        values = torch.cat([*(value for _, value, _ in kept), v], dim=1)
        out = scaled_dot_product_attention(*(y.transpose(1, 2) for y in (turned(q, now.times), keys, values)))
        if now.phase.writes:
            for frame, *pair in zip(now.frames, k.split(tokens, 1), v.split(tokens, 1), strict=True):
                self.raw[expert, layer, frame] = tuple(pair)  # type: ignore[assignment]
        return attn.to_out[0](out.transpose(1, 2).flatten(2))

    def flow(self, x: Tensor, timesteps: Tensor, condition: Condition, now: Now) -> Tensor:
        self.now = now
        flows = {n: original(net, x, timesteps[:, 0], condition) for n, net in enumerate(self.networks)
                 if now.phase.writes or n == int(timesteps[0, 0] < BOUNDARY)}  # fmt: skip
        return flows[int(timesteps[0, 0] < BOUNDARY)]


def turned(x: Tensor, times: Any) -> Tensor:
    """Rope of 12 channels, 2 pairs for each axis of a 2x2 grid, by complex numbers in float64."""
    places = torch.tensor([(t, r, c) for t in times for r in range(2) for c in range(2)], dtype=torch.float64)
    angles = (places[:, :, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)).flatten(1)
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2).float()


class Compared(Backbone):
    """The model under test; every pass of it whose output is read must equal the reference's."""

    def __init__(self, model: Wan22, reference: Uncached) -> None:
        super().__init__()
        self.model, self.reference, self.spec, self.phases = model, reference, model.spec, []
        self.positions = model.positions

    def forward(self, x: Tensor, timesteps: Tensor, condition: Condition, memory: Memory) -> Tensor:
        flow = self.model(x, timesteps, condition, memory)
        expected = self.reference.flow(x, timesteps, condition, memory.now)
        if not memory.now.unread:
            torch.testing.assert_close(flow, expected, rtol=0, atol=2e-5)
        self.phases.append(memory.now.phase)
        return flow


@pytest.mark.parametrize(
    "policy", [Window(3), AttentionSink(3, 1), SlidingIndices(3, 2), RollingSink(3, 2), LongLive()],
    ids=lambda policy: type(policy).__name__,
)  # fmt: skip
def test_rollout_of_two_experts_equals_attention_without_a_cache(
    models: dict[str, Wan22], releases: dict[str, Any], policy: CachePolicy
) -> None:
    compared = Compared(models["a14b"], Uncached(deepcopy(releases["a14b"].transformers)))
    prompts = {0: text(0), 10: text(1)}
    blocks = list(Rollout(compared, policy, SAMPLER)(prompts, 16, given=latents(3)))
    assert sum(block.latents.shape[1] for block in blocks) == 17
    assert {Phase.PREFILL, Phase.DENOISE, Phase.COMMIT} <= {*compared.phases}
    assert (Phase.RECACHE in compared.phases) == isinstance(policy, LongLive)


@pytest.mark.parametrize("levels", [(1000, 900), (800, 400), (1000, 400)], ids=["high alone", "low alone", "both"])
def test_sampler_may_leave_one_expert_out(
    models: dict[str, Wan22], releases: dict[str, Any], levels: tuple[int, ...]
) -> None:
    compared = Compared(models["a14b"], Uncached(deepcopy(releases["a14b"].transformers)))
    list(Rollout(compared, RollingSink(2, 1), FewStep(levels, shift=1.0))(text(), 12))


@pytest.mark.parametrize("kv", [True, False], ids=["kv", "replay"])
@pytest.mark.parametrize("name", ["5b", "a14b"])
def test_interrupted_rollout_continues_with_equal_blocks(models: dict[str, Wan22], name: str, kv: bool) -> None:
    rollout = Rollout(models[name], RollingSink(3, 2), SAMPLER)
    whole = [block.latents for block in rollout(text(), 14)]
    for cut in (1, 4):
        run = rollout(text(), 14)
        done = [next(run).latents for _ in range(cut)]
        state = run.state_dict(kv=kv)
        rest = rollout(text(), 14, state=state, finished=() if kv else done)
        torch.testing.assert_close([*done, *(block.latents for block in rest)], whole, rtol=0, atol=0 if kv else 1e-5)


def test_batch_of_two_equals_two_of_one(models: dict[str, Wan22]) -> None:
    rollout = Rollout(models["a14b"], RollingSink(3, 2), Euler(steps=4, guidance=3.0))
    both, negative = text(), text(5)
    together = torch.cat([block.latents for block in rollout(both, 8, negative=negative)], dim=1)
    for row in range(2):
        one, other = (Condition(f"{each.id}{row}", each.embeds[row : row + 1]) for each in (both, negative))
        blocks = [block.latents for block in rollout(one, 8, samples=[row], negative=other)]
        torch.testing.assert_close(torch.cat(blocks, dim=1), together[row : row + 1], rtol=0, atol=1e-5)


def test_training_pass_reaches_both_experts(models: dict[str, Wan22]) -> None:
    model, levels = models["a14b"], torch.tensor([[900.0, 900.0, 100.0, 100.0]]).expand(2, 4)
    with torch.enable_grad():
        model(latents(4), levels, text(), MaskedMemory.diffusion_forcing(model.spec, 4)).square().mean().backward()
    reached = [each.grad is not None and bool(each.grad.abs().sum()) for each in model.parameters()]
    model.zero_grad(set_to_none=True)
    assert all(reached)


def test_weights_of_fit_replace_those_of_the_folder(
    models: dict[str, Wan22], releases: dict[str, Any], tmp_path: Path
) -> None:
    folder = str(releases["a14b"].folder)
    trained = {name: value + 1 for name, value in models["a14b"].state_dict().items()}
    save_file(trained, tmp_path / "backbone.safetensors")
    torch.save(
        {"pytorch-lightning_version": "2.6", "state_dict": {f"backbone.{name}": v for name, v in trained.items()}},
        tmp_path / "last.ckpt",
    )
    for file in ("backbone.safetensors", "last.ckpt"):
        loaded = Wan22(folder, weights=str(tmp_path / file), **SHAPE)
        torch.testing.assert_close(loaded.state_dict(), trained, rtol=0, atol=0)
    with pytest.raises(UserError, match=r"Wan22: the weights in .*do not fit this model: experts\.1\..* is unexpected"):
        Wan22(str(releases["5b"].folder), weights=str(tmp_path / "backbone.safetensors"), **SHAPE)


def test_random_weights_and_dtypes(releases: dict[str, Any]) -> None:
    folder = str(releases["a14b"].folder)
    drawn = Wan22(folder, weights="random", **SHAPE)
    assert drawn.weights == "random"
    assert all(value.isfinite().all() for value in drawn.parameters())
    assert Wan22(folder, dtype="bf16", **SHAPE).experts[1].head.head.weight.dtype == torch.bfloat16


def test_bidirectional_weights_are_named_in_a_warning(
    releases: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, warned in (("Wan2.2-TI2V-5B-Diffusers", True), ("causal-wan2.2-5b", False)):
        (tmp_path / name).symlink_to(releases["5b"].folder)
        caplog.clear()
        Wan22(str(tmp_path / name), **SHAPE)
        assert ("those of a bidirectional model, by the name Wan2.2-TI2V-5B-Diffusers" in caplog.text) == warned


def test_boundary_is_that_of_the_index(edited: Callable[..., Path]) -> None:
    assert Wan22(str(edited("a14b", "model_index.json", boundary_ratio=0.4)), **SHAPE).boundary == 400.0
