"""LoRA files as people have them: each merged weight against the formula of its paper, in plain torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import UNSEEN, State, lora, peft, sharded, state
from safetensors.torch import save_file
from torch import Tensor

from rollforge.backbones.wan.names import to_diffusers
from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError

Q, RANK = "blocks.0.self_attn.q", 3


@pytest.fixture(scope="module")
def weights() -> State:
    return state()


@pytest.fixture
def base(tmp_path: Path, weights: State) -> str:
    save_file(weights, tmp_path / "base.safetensors")
    return str(tmp_path / "base.safetensors")


def loaded(base: str, lora: Any, **options: Any) -> State:
    return Wan(weights=base, lora=lora, dtype="fp32", **UNSEEN | options).state_dict()


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(math.prod(shape))) * 0.3


def saved(folder: Path, tensors: State, header: dict[str, str] | None = None, name: str = "lora.safetensors") -> str:
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name, header)
    return str(folder / name)


DOWN, UP = draw(RANK, 24), draw(24, RANK)
PAIR = {f"{Q}.lora_A.weight": DOWN, f"{Q}.lora_B.weight": UP}
HADAMARD = {"w1_a": draw(24, 2), "w1_b": draw(2, 24), "w2_a": draw(24, 2) + 1, "w2_b": draw(2, 24) - 1}
K1, K2, K2_A, K2_B = draw(4, 6), draw(6, 4), draw(6, 2), draw(2, 4)


def changed(found: State, weights: State, expected: dict[str, Tensor]) -> None:
    """Asserts that exactly these parameters have changed, by exactly so much."""
    for name, value in weights.items():
        torch.testing.assert_close(found[name] - value, expected.get(name, torch.zeros_like(value)), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({f"lora_unet_{Q.replace('.', '_')}.lora_down.weight": DOWN,
          f"lora_unet_{Q.replace('.', '_')}.lora_up.weight": UP,
          f"lora_unet_{Q.replace('.', '_')}.alpha": torch.tensor(6.0)}, {f"{Q}.weight": 2 * UP @ DOWN}),
        ({f"pipe.dit.{Q}.lora_A.default.weight": DOWN, f"pipe.dit.{Q}.lora_B.default.weight": UP},
         {f"{Q}.weight": UP @ DOWN}),
        ({"lora_transformer_blocks_1_ffn_net_0_proj.lora.down.weight": draw(2, 24),
          "lora_transformer_blocks_1_ffn_net_0_proj.lora.up.weight": draw(40, 2)},
         {"blocks.1.ffn.0.weight": draw(40, 2) @ draw(2, 24)}),
        ({f"diffusion_model.{Q}.diff_b": draw(24), "diffusion_model.blocks.1.norm3.diff": draw(24) + 1,
          "diffusion_model.blocks.0.diff_m": draw(1, 6, 24), "diffusion_model.head.diff_m": draw(1, 2, 24)},
         {f"{Q}.bias": draw(24), "blocks.1.norm3.weight": draw(24) + 1, "blocks.0.modulation": draw(1, 6, 24),
          "head.modulation": draw(1, 2, 24)}),
        (PAIR | {f"{Q}.lora_B.bias": draw(24), f"{Q}.alpha": torch.tensor(1.5)},
         {f"{Q}.weight": 0.5 * UP @ DOWN, f"{Q}.bias": 0.5 * draw(24)}),
        ({"patch_embedding.lora_down.weight": draw(2, 4, 1, 2, 2),
          "patch_embedding.lora_up.weight": draw(24, 2, 1, 1, 1)},
         {"patch_embedding.weight": torch.einsum("or,rc...->oc...", draw(24, 2), draw(2, 4, 1, 2, 2))}),
        ({f"lycoris_blocks_0_self_attn_q.hada_{key}": value for key, value in HADAMARD.items()}
         | {"lycoris_blocks_0_self_attn_q.alpha": torch.tensor(1.0)},
         {f"{Q}.weight": 0.5 * (HADAMARD["w1_a"] @ HADAMARD["w1_b"]) * (HADAMARD["w2_a"] @ HADAMARD["w2_b"])}),
        ({f"{Q}.lokr_w1": K1, f"{Q}.lokr_w2": K2, f"{Q}.alpha": torch.tensor(1e5)},  # nothing of low rank: no scale
         {f"{Q}.weight": torch.einsum("ij,kl->ikjl", K1, K2).reshape(24, 24)}),
        ({f"{Q}.lokr_w1": K1, f"{Q}.lokr_w2_a": K2_A, f"{Q}.lokr_w2_b": K2_B, f"{Q}.alpha": torch.tensor(6.0)},
         {f"{Q}.weight": 3 * torch.einsum("ij,kl->ikjl", K1, K2_A @ K2_B).reshape(24, 24)}),
    ],
    ids=["kohya", "diffsynth", "kohya diffusers", "differences", "bias", "convolution", "loha", "lokr", "small lokr"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["merge", "live"])
def test_each_format_changes_the_weights_by_its_formula(
    tmp_path: Path, weights: State, base: str, tensors: State, expected: State, mode: str
) -> None:
    found = loaded(base, saved(tmp_path, tensors), lora_mode=mode)
    module = found.pop(f"{Q}.lora_A.weight", None), found.pop(f"{Q}.lora_B.weight", None)
    if mode == "live" and module[0] is not None:  # the matrices lie next to the weight, which stays as it was
        expected = {name: value for name, value in expected.items() if name != f"{Q}.weight"}
    if mode == "live" and "blocks.1.ffn.0.lora_A.weight" in found:
        expected = {}
    changed(found, weights, expected)


@pytest.mark.parametrize(
    ("header", "config", "scale"),
    [
        ({"lora_adapter_metadata": '{"transformer.r": 3, "transformer.lora_alpha": 6}'}, None, 2.0),
        ({"lora_adapter_metadata": '{"r": 3, "lora_alpha": 6, "text_encoder.lora_alpha": 99}'}, None, 2.0),
        ({"ss_network_alpha": "1.5", "ss_network_dim": "3"}, None, 0.5),
        ({"ss_network_alpha": "None"}, None, 1.0),
        ({"ss_network_alpha": "1.5"}, {"lora_alpha": 30}, 0.5),
        (None, {"lora_alpha": 6, "use_rslora": True}, 6 / math.sqrt(3)),
        ({"lora_adapter_metadata": '{"transformer.lora_alpha": 6, "transformer.use_rslora": true}'}, None, 6 / 3**0.5),
        (None, {"lora_alpha": 6, "alpha_pattern": {"self_attn.q": 12}}, 4.0),
        (None, {"lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 12, "cross_attn.q": 1}}, 4.0),
        (None, {"lora_alpha": 6, "alpha_pattern": {"n.q": 12}}, 2.0),  # a pattern begins at a dot
        (None, {"lora_alpha": 6, "use_dora": False, "fan_in_fan_out": False}, 2.0),
    ],
)
def test_alpha_comes_from_header_or_config(
    tmp_path: Path, weights: State, base: str, header: dict[str, str] | None, config: Any, scale: float
) -> None:
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = loaded(base, saved(tmp_path, PAIR, header))
    changed(found, weights, {f"{Q}.weight": scale * UP @ DOWN})


@pytest.mark.parametrize("mode", ["merge", "live"])
def test_several_loras_add_up_by_their_strengths(tmp_path: Path, weights: State, base: str, mode: str) -> None:
    one = saved(tmp_path, PAIR | {f"{Q}.alpha": torch.tensor(6.0)}, name="one.safetensors")
    other = {f"{Q}.lora_A.weight": DOWN[:2] + 1, f"{Q}.lora_B.weight": UP[:, :2] - 1, f"{Q}.diff_b": draw(24)}
    two = saved(tmp_path, other, name="two.safetensors")
    for named, a, b in (([one, two], 1.0, 1.0), ({one: 0.5, two: -2.0}, 0.5, -2.0)):
        found = loaded(base, named, lora_mode=mode)
        if mode == "live":
            model = Wan(weights=base, lora=named, lora_mode="live", dtype="fp32", **UNSEEN)
            layer, x = model.get_submodule(Q), draw(5, 24)
            found = {Q + ".bias": found[f"{Q}.bias"]}
            added = (layer(x) - x @ weights[f"{Q}.weight"].T - found[f"{Q}.bias"]).detach()
            expected = x @ (2 * a * UP @ DOWN + b * (UP[:, :2] - 1) @ (DOWN[:2] + 1)).T
            torch.testing.assert_close(added, expected, rtol=0, atol=2e-5)
            continue
        delta = 2 * a * UP @ DOWN + b * (UP[:, :2] - 1) @ (DOWN[:2] + 1)
        changed(found, weights, {f"{Q}.weight": delta, f"{Q}.bias": b * draw(24)})


@pytest.mark.parametrize("how", ["peft", "peft bin", "diffusers", "lone", "shards"])
def test_a_folder_of_a_lora_is_found(tmp_path: Path, weights: State, base: str, how: str) -> None:
    folder, names = tmp_path / "lora", {"peft": "adapter_model", "diffusers": "pytorch_lora_weights", "lone": "epoch-4"}
    folder.mkdir()
    if how == "peft bin":
        torch.save(peft({Q: (DOWN, UP)}), folder / "adapter_model.bin")
    elif how == "shards":
        sharded(folder, peft({Q: (DOWN, UP)}), shards=2)
    else:
        saved(folder, peft({Q: (DOWN, UP)}), name=f"{names[how]}.safetensors")
    (folder / "adapter_config.json").write_text('{"lora_alpha": 6}')
    changed(loaded(base, str(folder)), weights, {f"{Q}.weight": 2 * UP @ DOWN})


@pytest.mark.parametrize(
    ("tensors", "config", "expected"),
    [
        (PAIR | {f"{Q}.dora_scale": draw(24)}, None, "which is DoRA and cannot be merged here"),
        (PAIR | {f"{Q}.lora_magnitude_vector.weight": draw(24)}, None, "which is DoRA"),
        ({f"{Q}.oft_blocks": draw(4, 6, 6)}, None, "which is OFT"),
        (PAIR | {f"{Q}.lora_mid.weight": draw(3, 3)}, None, "which is a Tucker decomposition"),
        ({"lora_te_text_model_encoder.lora_down.weight": DOWN}, None, "an adapter of the text encoder"),
        ({f"{Q}.hada_w1_a": draw(24, 2), f"{Q}.hada_w1_b": draw(2, 24)}, None, "all the matrices of LoHa or LoKr"),
        ({f"{Q}.lokr_w1": K1, f"{Q}.lokr_w2": K1 + 1}, None, "as [16, 36], which is [24, 24] in the model"),
        ({f"{Q}.diff": draw(24)}, None, "as [24], which is [24, 24] in the model"),
        ({"blocks.0.cross_attn.k_img.lora_A.weight": DOWN, "blocks.0.cross_attn.k_img.lora_B.weight": UP}, None,
         "changes blocks.0.cross_attn.k_img.weight as [24, 24], which is not in the model"),
        ({f"{Q}.alpha": torch.tensor(1.0)}, None, "holds alphas and nothing to merge"),
        (PAIR, {"lora_alpha": 6, "modules_to_save": ["head"]}, "asks for modules_to_save"),
        (PAIR, {"lora_alpha": 6, "init_lora_weights": "pissa_niter_4"}, "asks for init_lora_weights pissa"),
        (PAIR, {"lora_alpha": "much"}, "does not hold the settings of a LoRA"),
        (PAIR, {"lora_alpha": math.nan}, "does not hold the settings of a LoRA"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_named(tmp_path: Path, base: str, tensors: State, config: Any, expected: str) -> None:
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        loaded(base, saved(tmp_path, tensors))
    assert expected in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


def test_a_header_of_nonsense_is_named(tmp_path: Path, base: str) -> None:
    for text in ("[]", "{", '{"transformer.lora_alpha": "x"}', "[" * 5000):
        with pytest.raises(UserError, match=r"the header of .* does not hold the settings of a LoRA"):
            loaded(base, saved(tmp_path, PAIR, {"lora_adapter_metadata": text}))


def test_a_strength_that_is_not_finite_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(UserError, match=r"strength of the LoRA .* is not a finite number"):
        loaded(base, {saved(tmp_path, PAIR): math.nan})


def test_modules_of_diffusers_are_named_as_there(tmp_path: Path, weights: State, base: str) -> None:
    pairs = lora(weights)
    theirs = {to_diffusers(f"{module}.weight").removesuffix(".weight"): pair for module, pair in pairs.items()}
    underscored = {f"lora_unet_{module.replace('.', '_')}": pair for module, pair in theirs.items()}
    expected = {f"{module}.weight": up @ down for module, (down, up) in pairs.items()}
    for naming in (theirs, underscored):
        changed(loaded(base, saved(tmp_path, peft(naming, prefix=""))), weights, expected)
