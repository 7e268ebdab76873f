"""Published weights into the Wan network: every layout, sizes told from the file, precision, LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    GRID,
    SHAPES,
    UNSEEN,
    State,
    diffusers,
    family,
    lora,
    peft,
    sharded,
    state,
    wrapped,
)  # fmt: skip
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from rollforge.backbones.base import Condition
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError
from rollforge.memory import FullMemory


@pytest.fixture(autouse=True)
def _without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="module")
def weights() -> State:
    return state()


def holds(model: Wan, weights: State) -> bool:
    """Whether a model has exactly these weights, on the CPU and trainable."""
    found = model.state_dict()
    assert set(found) == set(weights)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    return all(torch.equal(found[name], value.to(found[name].dtype)) for name, value in weights.items())


@torch.no_grad()
def flow(model: Wan) -> torch.Tensor:
    """What a model predicts for fixed latents."""
    torch.manual_seed(9)
    latents, text = torch.randn(1, 3, *model.spec.latent_shape), torch.randn(1, 5, 12)
    dtype = model.patch_embedding.weight.dtype
    return model(
        latents.to(dtype), torch.full((1, 3), 500.0), Condition("text", text), FullMemory(model.spec, range(3))
    )


# what is in the files


def publish(folder: Path, weights: State, how: str) -> Path:
    """The weights in one of the published ways; returns what to name."""
    other = state(seed=1)
    single = folder / "diffusion_pytorch_model.safetensors"
    if how == "self forcing":
        return family(folder / "self_forcing_dmd.pt", other, weights)
    if how == "without an average":
        return family(folder / "longlive_base.pt", weights)
    if how in ("model", "plain"):
        torch.save({"model": wrapped(weights)} if how == "model" else weights, folder / "model.pth")
        return folder / "model.pth"
    if how == "original folder":
        torch.save({"x": torch.zeros(1)}, folder / "Wan2.1_VAE.pth")
        torch.save({"x": torch.zeros(1)}, folder / "models_t5_umt5-xxl-enc-bf16.pth")
        (folder / "config.json").write_text("{}")
        family(folder / "old.pt", other)
        save_file(weights, single)
        return folder
    if how == "folder with one pt":
        family(folder / "a.pt", weights)
        return folder
    if how == "sharded":
        return sharded(folder, weights)
    if how == "sharded folder":
        return sharded(folder, weights).parent
    if how == "diffusers folder":
        (folder / "vae").mkdir()
        save_file({"x": torch.zeros(1)}, folder / "vae" / "diffusion_pytorch_model.safetensors")
        return sharded(folder / "transformer", diffusers(weights)).parents[1]
    save_file(diffusers(weights) if how == "diffusers" else weights, single)
    return single


@pytest.mark.parametrize(
    "how",
    [
        *("self forcing", "without an average", "model", "plain", "original", "original folder", "folder with one pt"),
        *("sharded", "sharded folder", "diffusers", "diffusers folder"),
    ],
)
def test_weights_load_however_they_are_published(tmp_path: Path, weights: State, how: str) -> None:
    named = str(publish(tmp_path, weights, how))
    model = Wan(weights=named, **UNSEEN)
    assert holds(model, weights)
    assert model.weights == named


def test_which_set_of_weights_is_taken_can_be_chosen(tmp_path: Path, weights: State) -> None:
    trained = state(seed=1)
    file = str(family(tmp_path / "a.pt", trained, weights))
    assert holds(Wan(weights=file, ema=True, **UNSEEN), weights)
    assert holds(Wan(weights=file, ema=False, **UNSEEN), trained)


@pytest.mark.parametrize(
    "sizes", [{"dim": 512, "heads": 4, "ffn_dim": 64}, {"layers": 3}, {"channels": 6, "freq_dim": 8, "text_dim": 20}]
)
def test_sizes_are_told_from_the_file(tmp_path: Path, sizes: dict[str, Any]) -> None:
    weights = state(**sizes)
    save_file(weights, tmp_path / "w.safetensors")
    heads = {} if sizes.get("dim") else {"heads": 2}  # a width of whole heads of 128 says how many there are
    model = Wan(weights=str(tmp_path / "w.safetensors"), **GRID, **heads)
    assert holds(model, weights)
    assert model.spec.heads == sizes.get("heads", 2)
    assert model.spec.layers == sizes.get("layers", 2)
    assert model.freq_dim == sizes.get("freq_dim", 16)


@torch.no_grad()
def test_a_checkpoint_in_diffusers_names_computes_what_diffusers_computes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12, freq_dim=16,
        ffn_dim=40, num_layers=2, rope_max_seq_len=64,
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    ours = Wan(weights=str(tmp_path), **UNSEEN)
    torch.manual_seed(9)
    latents, text = torch.randn(1, 3, 4, 4, 6), torch.randn(1, 5, 12)
    expected = theirs(latents.transpose(1, 2), torch.tensor([500.0]), text, return_dict=False)[0].transpose(1, 2)
    torch.testing.assert_close(flow(ours), expected, rtol=0, atol=1e-5)


def test_without_weights_the_network_is_random_and_says_so() -> None:
    assert Wan(**GRID | SHAPES).weights is None
    chosen = Wan(weights="random", **GRID | SHAPES)
    assert chosen.weights == "random"
    assert all(value.device.type == "cpu" for value in chosen.parameters())


def test_sizes_that_are_not_given_are_those_of_the_published_model() -> None:
    with torch.device("meta"):
        assert Wan(layers=1).patch_embedding.weight.shape == (1536, 16, 1, 2, 2)
        assert Wan(layers=1, dim=5120, ffn_dim=13824).spec.heads == 40  # the 14B model's


# precision and memory


@pytest.mark.parametrize(
    ("dtype", "cuda", "expected"),
    [
        ("auto", False, torch.float32),
        ("auto", True, torch.bfloat16),
        ("bf16", False, torch.bfloat16),
        ("fp16", False, torch.float16),
        ("fp32", True, torch.float32),
    ],
)
def test_weights_are_held_in_the_chosen_format(
    tmp_path: Path, weights: State, monkeypatch: pytest.MonkeyPatch, dtype: Any, cuda: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: cuda)
    save_file({name: value.bfloat16() for name, value in weights.items()}, tmp_path / "w.safetensors")
    model = Wan(weights=str(tmp_path / "w.safetensors"), dtype=dtype, **UNSEEN)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert flow(model).dtype == expected
    random = Wan(dtype=dtype, **GRID | SHAPES)  # to be trained: in full precision by default
    assert {p.dtype for p in random.parameters()} == {torch.float32 if dtype == "auto" else expected}


@pytest.mark.parametrize("how", ["self forcing", "sharded", "original"])
def test_a_loaded_weight_keeps_nothing_but_itself(tmp_path: Path, weights: State, how: str) -> None:
    file = publish(tmp_path, weights, how)
    model = Wan(weights=str(file), dtype="fp32", **UNSEEN)
    for each in tmp_path.iterdir():
        each.write_bytes(b"")  # a mapped tensor would now be gone
    assert holds(model, weights)
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert sum(held.values()) == sum(p.nbytes for p in model.parameters())


def test_loaded_weights_can_be_trained(tmp_path: Path, weights: State) -> None:
    model = Wan(weights=str(publish(tmp_path, weights, "self forcing")), **UNSEEN)
    latents, text = torch.randn(1, 3, *model.spec.latent_shape), torch.randn(1, 5, 12)
    memory = FullMemory(model.spec, range(3))
    model(latents, torch.full((1, 3), 500.0), Condition("text", text), memory).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# LoRA


@pytest.fixture
def base(tmp_path: Path, weights: State) -> str:
    return str(family(tmp_path / "longlive_base.pt", weights))


def merged(weights: State, scale: float = 1.0) -> State:
    pairs = lora(weights)
    changes = {f"{name}.weight": scale * (up @ down) for name, (down, up) in pairs.items()}
    return {name: value + changes.get(name, 0) for name, value in weights.items()}


def adapters(folder: Path, weights: State, how: str) -> Path:
    """The LoRA of these weights in one of the ways that they are published."""
    pairs = lora(weights)
    if how.startswith("safetensors"):
        theirs = peft({_theirs(module): pair for module, pair in pairs.items()}, prefix="transformer.")
        save_file(theirs if how.endswith("diffusers") else peft(pairs), folder / "lora.safetensors")
        return folder / "lora.safetensors"
    prefix = "model.base_model.model._fsdp_wrapped_module." if how == "wrapped" else "base_model.model."
    content = peft(pairs, "default" if how != "plain" else "", prefix)
    torch.save({"generator_lora": content, "step": 3} if how != "plain" else content, folder / "lora.pt")
    return folder / "lora.pt"


def _theirs(module: str) -> str:
    return next(iter(diffusers({f"{module}.weight": torch.empty(0)}))).removesuffix(".weight")


@pytest.mark.parametrize("how", ["nested", "wrapped", "plain", "safetensors", "safetensors diffusers"])
@pytest.mark.parametrize("mode", ["merge", "live"])
def test_a_lora_changes_the_weights_it_was_made_for(
    tmp_path: Path, weights: State, base: str, how: str, mode: Any
) -> None:
    file = adapters(tmp_path, weights, how)
    plain, model = Wan(weights=base, **UNSEEN), Wan(weights=base, lora=str(file), lora_mode=mode, **UNSEEN)
    expected = Wan(**GRID | SHAPES)
    expected.load_state_dict(merged(weights))
    assert (flow(plain) - flow(expected)).abs().max() > 0.05
    torch.testing.assert_close(flow(model), flow(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["merge", "live"])
@pytest.mark.parametrize(("by", "scale"), [("argument", 2.0), ("config", 0.5), ("file", 3.0), ("argument first", 2.0)])
def test_alpha_over_rank_is_the_scale(
    tmp_path: Path, weights: State, base: str, mode: Any, by: str, scale: float
) -> None:
    file, pairs = tmp_path / "lora.safetensors", lora(weights)
    content = peft(pairs)
    if by in ("file", "argument first"):
        content |= {f"{module}.alpha": torch.tensor(9.0) for module in pairs}
    if by == "config":
        (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 1.5, "use_dora": false}')
    save_file(content, file)
    alpha = 6.0 if by.startswith("argument") else None  # of rank 3
    model = Wan(weights=base, lora=str(file), lora_alpha=alpha, lora_mode=mode, **UNSEEN)
    expected = Wan(**GRID | SHAPES)
    expected.load_state_dict(merged(weights, scale))
    torch.testing.assert_close(flow(model), flow(expected), rtol=0, atol=2e-5)


def test_a_live_lora_leaves_the_weights_alone_and_can_be_trained(tmp_path: Path, weights: State, base: str) -> None:
    model = Wan(weights=base, lora=str(adapters(tmp_path, weights, "nested")), lora_mode="live", dtype="bf16", **UNSEEN)
    found = model.state_dict()
    assert all(torch.equal(found[name], value.bfloat16()) for name, value in weights.items())
    assert {name for name in found if name not in weights} == set(peft(lora(weights), prefix=""))
    assert all(p.dtype is torch.bfloat16 and p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert isinstance(model.get_submodule("blocks.0.self_attn.q"), nn.Linear)


@pytest.mark.parametrize("mode", ["merge", "live"])
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("half", ["blocks.0.self_attn.q", "lora_A [rank, in]"]),
        ("other width", ["blocks.0.self_attn.q.weight", "[32, 32]", "[24, 24] in the model"]),
        ("deeper", ["blocks.7.self_attn.q.weight", "is not in the model"]),
        ("no lora", ["blocks.0.self_attn.q.weight", "not part of a LoRA"]),
        ("not finite", ["not finite", "lora_A"]),
        ("dora", ["adapter_config.json", "use_dora"]),
        ("absent", ["no weights file", "lora.safetensors"]),
    ],
)
def test_a_lora_that_does_not_fit_is_named(
    tmp_path: Path, weights: State, base: str, mode: Any, wrong: str, expected: list[str]
) -> None:
    file, down, up = tmp_path / "lora.safetensors", torch.ones(3, 24), torch.ones(24, 3)
    name = "blocks.0.self_attn.q"
    good = peft({name: (down, up)})
    contents: dict[str, State] = {
        "half": dict(list(good.items())[:1]),
        "other width": peft({name: (torch.ones(3, 32), torch.ones(32, 3))}),
        "deeper": peft({"blocks.7.self_attn.q": (down, up)}),
        "no lora": {f"{name}.weight": torch.ones(24, 24)},
        "not finite": peft({name: (down * torch.inf, up)}),
        "dora": good,
    }
    if wrong == "dora":
        (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 1.5, "use_dora": true}')
    if wrong in contents:
        save_file(contents[wrong], file)
    with pytest.raises(UserError) as error:
        Wan(weights=base, lora=str(file), lora_mode=mode, **UNSEEN)
    assert all(words in str(error.value) for words in [*expected, "Wan: "])


def test_a_lora_without_weights_is_refused() -> None:
    with pytest.raises(UserError, match="name them with weights"):
        Wan(lora="lora.pt", **GRID | SHAPES)
