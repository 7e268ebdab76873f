"""Weights that cannot be used: one sentence each, before anything is computed, and no untrusted code is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import GRID, SHAPES, UNSEEN, State, diffusers, family, sharded, state
from safetensors.torch import save_file

from rollforge.backbones.wan.network import Wan
from rollforge.errors import UserError

Q = "blocks.0.self_attn.q.weight"


@pytest.fixture(scope="module")
def weights() -> State:
    return state()


def refused(named: Path | str, *expected: str, **arguments: Any) -> str:
    """The one sentence that refuses these weights, which names them and says ``said``."""
    with pytest.raises(UserError) as error:
        Wan(weights=str(named), **UNSEEN | arguments)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("Wan: ")
    assert all(words in message for words in (*expected, Path(named).name)), message
    return message


class Hostile:
    """Runs code where it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.victim,)


# a file that is not what it should be


def cut(file: Path, keep: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep)])


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_file_that_is_cut_off(tmp_path: Path, weights: State, suffix: str, keep: float) -> None:
    file = tmp_path / f"weights{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else family(file, weights, weights)
    cut(file, keep)
    refused(file, "again")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_something_else(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(b"<html>404</html>" * 99)
    refused(file, "again")


def test_a_file_with_bytes_changed(tmp_path: Path, weights: State) -> None:
    file = family(tmp_path / "weights.pt", weights)
    whole = file.read_bytes()
    where = whole.index(b"_rebuild_tensor_v2")
    file.write_bytes(whole[:where] + b"\xff" * 40 + whole[where + 40 :])
    assert "weights_only" not in refused(file, "again")


def test_a_file_that_would_run_code(tmp_path: Path, weights: State) -> None:
    victim, file = tmp_path / "victim", tmp_path / "weights.pt"
    torch.save({"generator": weights, "config": Hostile(victim)}, file)
    message = refused(file, "more than tensors (getattr)", "could run code", "tensors only")
    assert "weights_only" not in message
    assert not victim.exists()


def test_a_file_in_the_old_format_of_torch(tmp_path: Path, weights: State) -> None:
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pt", "torch 1.6 or later", "again")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(2)], "no named tensors but a list"),
        ({"epoch": 3}, "int under epoch"),
        ({"critic": {"x": torch.zeros(1)}, "step": 1}, "critic, step; expected generator_ema or generator"),
        ({"generator": {}}, "no weights at all"),
        ({}, "no weights at all"),
        ({"generator": {"a": torch.zeros(2, dtype=torch.int64)}}, "a as int64; expected floating-point"),
        ({"a": torch.zeros(2, device="meta")}, "a tensor without numbers under a"),
        ({"a": torch.zeros(0, 2**40)}, "no numbers in a"),
        ({"a": torch.zeros(1).expand(2**20, 2**20)}, "more numbers than it holds"),
        ({"a": torch.zeros(2).to_sparse()}, "a tensor without numbers under a"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "a as complex64"),
    ],
)
def test_a_pt_that_holds_something_else(tmp_path: Path, content: Any, expected: str) -> None:
    torch.save(content, tmp_path / "weights.pt")
    refused(tmp_path / "weights.pt", expected)


def raw(file: Path, header: bytes, data: bytes, length: int | None = None) -> Path:
    """A safetensors file of these very bytes."""
    file.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return file


def entry(name: str, start: int, end: int, shape: list[int], dtype: str = "F32") -> str:
    return f'"{name}":{json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})}'


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([entry("a", 0, 16, [4]), entry("a", 0, 16, [2, 2])], "holds a twice"),
        ([entry("a", 0, 8, [2]), entry("b", 4, 12, [2])], "not a readable safetensors file"),
        ([entry("a", 0, 8, [2]), entry("b", 0, 8, [2])], "not a readable safetensors file"),
        ([entry("a", 0, 80, [20])], "not a readable safetensors file"),
        ([entry("a", 0, 8, [2**62, 2**62])], "not a readable safetensors file"),
        ([entry("a", 0, 0, [0, 2**62]), entry("b", 0, 16, [4])], "no numbers in a"),
        ([entry("a", 0, 16, [2], "I64")], "a as int64"),
        ([entry("a", 0, 16, [16], "U8")], "a as uint8"),
        ([], "not a readable safetensors file"),
        (["nonsense"], "not a readable safetensors file"),
    ],
)
def test_a_safetensors_header_that_lies(tmp_path: Path, entries: list[str], expected: str) -> None:
    refused(raw(tmp_path / "w.safetensors", f"{{{','.join(entries)}}}".encode(), b"\0" * 16), expected)


def test_a_safetensors_header_longer_than_memory(tmp_path: Path) -> None:
    refused(raw(tmp_path / "w.safetensors", b"{}", b"", 2**62), "header too large")


def test_a_safetensors_file_without_weights(tmp_path: Path) -> None:
    refused(raw(tmp_path / "w.safetensors", b"{}", b""), "no weights at all")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_numbers_that_are_not_finite(tmp_path: Path, weights: State, suffix: str, value: float) -> None:
    file, broken = tmp_path / f"weights{suffix}", {name: tensor.clone() for name, tensor in weights.items()}
    broken[Q][3, 4] = value
    save_file(broken, file) if suffix == ".safetensors" else family(file, broken)
    refused(file, "not finite", "self_attn.q.weight")


def test_numbers_that_fp16_does_not_reach(tmp_path: Path, weights: State) -> None:
    save_file(weights | {Q: weights[Q] + 1e6}, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", Q, "too large for float16", "bf16", dtype="fp16")


def test_two_names_for_one_weight(tmp_path: Path, weights: State) -> None:
    torch.save(weights | {f"model.{Q}": weights[Q] + 1}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", f"{Q} twice", f"model.{Q}")


# weights of another model


@pytest.mark.parametrize(
    ("change", "given", "expected"),
    [
        ({Q: None}, {}, [f"{Q} is missing"]),
        ({"img_emb_.weight": (4,)}, {}, ["img_emb_.weight is unexpected"]),
        ({Q: (24, 8)}, {}, [f"{Q} is [24, 8], expected [24, 24]"]),
        ({Q: None, "more.weight": (2,), "head.head.bias": (3,)}, {},
         [f"{Q} is missing", "more.weight is unexpected", "head.head.bias is [3], expected [16]"]),
        ({}, {"dim": 32}, ["is [24", "expected [32"]),
        ({}, {"layers": 3}, ["blocks.2.modulation is missing"]),
        ({}, {"layers": 1}, ["blocks.1.", "is unexpected"]),
        ({"blocks.999999999.x": (1,)}, {}, ["blocks.2.modulation is missing", "blocks.999999999.x is unexpected"]),
        ({}, {"heads": 5}, ["dim 24", "5 heads"]),
        ({}, {"heads": None}, ["dim 24", "set heads"]),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(
    tmp_path: Path, weights: State, change: dict[str, Any], given: dict[str, Any], expected: list[str]
) -> None:
    kept = {name: value for name, value in weights.items() if change.get(name, 0) is not None}
    kept |= {name: torch.ones(shape) for name, shape in change.items() if shape}
    file = tmp_path / "dim 24 w.safetensors"
    save_file(kept, file)
    with pytest.raises(UserError) as error:
        Wan(weights=str(file), **UNSEEN | given)
    assert all(words in str(error.value) for words in expected), str(error.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["img_emb.proj.0.weight"], "an image-to-video model"),
        (["blocks.0.cross_attn.k_img.weight"], "an image-to-video model"),
        (["condition_embedder.image_embedder.norm1.weight"], "an image-to-video model"),
        (["vace_blocks.0.before_proj.weight", "vace_patch_embedding.weight"], "a VACE model"),
        (["control_adapter.conv.weight"], "a control model"),
        (["blocks.0.self_attn.q.lora_A.weight"], "a LoRA"),
    ],
)
def test_weights_of_another_task_are_named(tmp_path: Path, weights: State, names: list[str], expected: str) -> None:
    save_file(weights | {name: torch.ones(4) for name in names}, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", f"is {expected}", "take weights of a Wan text-to-video transformer")


def test_weights_with_more_channels_in_than_out_are_conditioned(tmp_path: Path, weights: State) -> None:
    save_file(weights | {"patch_embedding.weight": torch.ones(24, 9, 1, 2, 2)}, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", "a model of 9 latent channels in and 4 out")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("decoder.conv1.weight", "a video codec"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a text encoder"),
        ("blocks.0.attn.q.weight", "a text encoder"),
        ("visual.conv1.weight", "a CLIP encoder"),
        ("blocks.0.self_attn.q.diff_b", "a LoRA"),
        ("double_blocks.0.img_attn.qkv.weight", "a model of another family"),
        ("weight", "not a transformer of Wan"),
    ],
)
def test_weights_of_something_else_are_named(tmp_path: Path, name: str, expected: str) -> None:
    save_file({name: torch.ones(3)}, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", f"is {expected}")


@pytest.mark.parametrize(
    ("ema", "there", "lacks"), [(True, "generator", "generator_ema"), (False, "generator_ema", "generator")]
)
def test_a_set_of_weights_that_is_not_there(tmp_path: Path, weights: State, ema: bool, there: str, lacks: str) -> None:
    torch.save({there: weights}, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", f"holds {there} and no {lacks};", "leave ema unset", ema=ema)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("ema", [True, False])
def test_a_choice_of_weights_where_there_is_none(tmp_path: Path, weights: State, suffix: str, ema: bool) -> None:
    file = tmp_path / f"w{suffix}"
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    refused(file, "one set of weights", "leave ema unset", ema=ema)


# names of nothing


@pytest.mark.parametrize(
    "named", ["nowhere.pt", "nowhere/w.safetensors", "./no/where", "/no/where", "nowhere", "", " ", "a/b/c", "~/no.pt"]
)
def test_a_name_of_nothing(named: str) -> None:
    with pytest.raises(UserError, match=r"^Wan: there is no weights file or folder .*; name a"):
        Wan(weights=named, **UNSEEN)


@pytest.mark.parametrize(
    ("name", "start", "expected"),
    [
        ("w.gguf", b"GGUF\x03\0\0\0", "is a GGUF file"),
        ("w.safetensors", b"GGUF\x03\0\0\0", "is a GGUF file"),
        ("w.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
        ("w.safetensors", b"<!doctype html><title>404", "is a web page"),
        ("w.onnx", b"\x08\x07", "is not a file of weights; expected .safetensors, .pt"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, name: str, start: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(start * 9)
    refused(tmp_path / name, expected)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    for name in ("config.json", "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"):
        (tmp_path / name).write_text("{}")
    refused(tmp_path, "holds no weights of a Wan transformer", "transformer/", "diffusion_pytorch_model.safetensors")


def test_a_folder_with_a_choice(tmp_path: Path, weights: State) -> None:
    family(tmp_path / "a.pt", weights)
    family(tmp_path / "b.pt", weights)
    refused(tmp_path, "several", "a.pt, b.pt", "name the one")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        ("lost shard", ["00002-of-00003", "1 of its 3 files", "download"]),
        ("cut shard", ["00002-of-00003", "not a readable safetensors file"]),
        ("not json", ["not an index of weights files"]),
        ("no map", ["not an index of weights files"]),
        ("deep", ["not an index of weights files"]),
        ("empty map", ["no weights at all"]),
        ("outside", ["../secret.safetensors", "not a weights file next to it"]),
        ("wrong shard", ["says that", "and it does not"]),
    ],
)
def test_shards_that_are_not_whole(tmp_path: Path, weights: State, harm: str, expected: list[str]) -> None:
    index = sharded(tmp_path, weights)
    second, content = sorted(tmp_path.glob("*.safetensors"))[1], json.loads(index.read_text())
    if harm == "lost shard":
        second.unlink()
    elif harm == "cut shard":
        cut(second, 0.5)
    elif harm == "wrong shard":
        content["weight_map"] = dict.fromkeys(content["weight_map"], second.name)
    elif harm == "outside":
        content["weight_map"][Q] = "../secret.safetensors"
    elif harm == "empty map":
        content["weight_map"] = {}
    texts = {"not json": "{", "no map": "[]", "deep": "[" * 100_000}
    index.write_text(texts.get(harm) or json.dumps(content))
    with pytest.raises(UserError) as error:
        Wan(weights=str(index), **UNSEEN)
    assert all(words in str(error.value) for words in expected), str(error.value)


# the hub

SELF_FORCING = "gdhe17/Self-Forcing:checkpoints/self_forcing_dmd.pt"


@pytest.mark.parametrize(
    ("named", "command"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B", "hf download Wan-AI/Wan2.1-T2V-1.3B --include 'transformer/*' 'diffusion_pytorch"),
        (SELF_FORCING, "`hf download gdhe17/Self-Forcing checkpoints/self_forcing_dmd.pt`"),
    ],
)
def test_a_hub_that_cannot_be_reached_says_what_to_download(
    named: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no route to host.\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    refused(named, "(no route to host)", command, f"https://huggingface.co/{named.partition(':')[0]}", "name the file")


@pytest.mark.parametrize(
    ("named", "wanted"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", ["config.json", "diffusion_pytorch_model*", "transformer/*"]),
        (
            "me/models:wan/causal",
            ["wan/causal/config.json", "wan/causal/diffusion_pytorch_model*", "wan/causal/transformer/*"],
        ),
        ("me/models:wan/causal/self-forcing.pt", ["wan/causal/config.json", "wan/causal/self-forcing.pt"]),
    ],
)
def test_a_hub_name_downloads_the_transformer_alone(
    tmp_path: Path, weights: State, monkeypatch: pytest.MonkeyPatch, named: str, wanted: list[str]
) -> None:
    asked: list[Any] = []

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, sorted(allow_patterns)))
        folder = tmp_path / named.partition(":")[2]
        if named.endswith(".pt"):
            folder.parent.mkdir(parents=True)
            family(folder, weights)
        else:
            sharded(folder / "transformer", diffusers(weights))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = Wan(weights=named, dtype="fp32", **UNSEEN)
    assert torch.equal(model.state_dict()[Q], weights[Q])
    assert asked == [(named.partition(":")[0], wanted)]


def test_a_local_file_goes_before_the_hub(tmp_path: Path, weights: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / SELF_FORCING).parent.mkdir(parents=True)
    family(tmp_path / SELF_FORCING, weights)
    assert torch.equal(Wan(weights=SELF_FORCING, dtype="fp32", **UNSEEN).state_dict()[Q], weights[Q])


def test_a_hub_repository_without_a_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(UserError, match="holds no weights of a Wan transformer"):
        Wan(weights="some/thing", **UNSEEN)
    with pytest.raises(UserError, match=r"the hub did not give some/thing:a/b.pt.*https://huggingface.co/some/thing"):
        Wan(weights="some/thing:a/b.pt", **UNSEEN)


@pytest.mark.parametrize("named", ["some/thing:../b.pt", "some/thing:/etc/b.pt", "some/thing:a\\b.pt", "x:a/b.pt"])
def test_a_hub_name_stays_in_its_repository(named: str) -> None:
    with pytest.raises(UserError, match="there is no weights file or folder"):
        Wan(weights=named, **UNSEEN)


def test_random_weights_never_stand_in(tmp_path: Path) -> None:
    for named in ("", "Random", "none", str(tmp_path)):
        with pytest.raises(UserError):
            Wan(weights=named, **GRID | SHAPES)
