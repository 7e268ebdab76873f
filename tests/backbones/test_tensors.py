"""Files of tensors, opened and read one by one: what they may claim, and which weights lie in them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rollforge.backbones.pocket.codec import PocketCodec
from rollforge.backbones.pocket.network import Pocket
from rollforge.backbones.scaled import scaled
from rollforge.backbones.stored import numbers
from rollforge.backbones.tensors import open_file, open_torch, tensors_of
from rollforge.errors import UserError

SMALL: dict[str, Any] = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64}
GIANT = 1 << 42  # bytes; more than any machine has


def read(file: Path) -> dict[str, Tensor]:
    return {name: numbers(stored, "Part") for name, stored in open_file(file, "Part").items()}


def write(file: Path, entries: list[tuple[str, dict[str, Any]]], size: int) -> Path:
    """A safetensors file of this header, whose numbers are a hole of the file system."""
    header = ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(fields)}" for name, fields in entries) + "}").encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with file.open("rb+") as opened:
        opened.truncate(8 + len(header) + size)
    return file


def entry(start: int, count: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [count], "data_offsets": [start, start + count]}


def test_a_file_larger_than_memory_is_read_tensor_by_tensor(tmp_path: Path) -> None:
    entries = [("giant", entry(0, GIANT)), ("small", entry(GIANT, 5))]
    file = write(tmp_path / "w.safetensors", entries, GIANT + 5)
    with file.open("rb+") as opened:
        opened.seek(-5, 2)
        opened.write(bytes(range(5)))
    found = open_file(file, "Part")
    assert found["giant"].size == GIANT
    assert numbers(found["small"], "Part").tolist() == [0, 1, 2, 3, 4]


def test_what_is_opened_is_not_mapped(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1000)}, tmp_path / "w.safetensors")
    torch.save({"a": torch.ones(1000)}, tmp_path / "w.pt")
    for file in sorted(tmp_path.iterdir()):
        found = open_file(file, "Part")
        first = numbers(found["a"], "Part")
        file.write_bytes(file.read_bytes()[:900])
        assert first.eq(1).all()  # a mapped one would end the process
        with pytest.raises(UserError, match="has become shorter while it was read"):
            found["a"].read()


@pytest.mark.parametrize("twice", [False, True])
def test_a_long_header_is_read_in_linear_time(tmp_path: Path, twice: bool) -> None:
    names = [f"t{n}" for n in range(10_000)]
    entries = [(name, entry(n, 1)) for n, name in enumerate([*names, names[0]] if twice else names)]
    file, start = write(tmp_path / "w.safetensors", entries, len(entries)), time.process_time()
    if twice:
        with pytest.raises(UserError, match="it holds t0 twice"):
            open_file(file, "Part")
    else:
        assert len(open_file(file, "Part")) == 10_000
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("entries", "size", "expected"),
    [
        ([("a", entry(0, 4))], 5, "take 4 bytes, and 5 are there"),
        ([("a", entry(0, 4) | {"shape": [5]})], 4, "not as many numbers"),
        ([("a", entry(1, 3))], 4, "does not begin where"),
        ([("a", entry(0, 3)), ("b", entry(2, 2))], 4, "does not begin where"),
        ([("a", entry(0, 4) | {"shape": [-1, -4]})], 4, "impossible dtype, shape or place"),
        ([("a", entry(0, 4) | {"shape": [True, 4]})], 4, "impossible dtype, shape or place"),
        ([("a", entry(0, 4) | {"data_offsets": [0]})], 4, "has no dtype, shape and data_offsets"),
        ([("__metadata__", {"a": 1}), ("b", entry(0, 4))], 4, "its metadata is not text"),
        ([("a", entry(0, 4) | {"more": json.loads("[" * 900 + "]" * 900)})], 4, "nests deeper than 64 levels"),
    ],
)
def test_a_header_must_fit_its_file(tmp_path: Path, entries: Any, size: int, expected: str) -> None:
    with pytest.raises(UserError, match=f"is not a readable safetensors file .*{expected}"):
        open_file(write(tmp_path / "w.safetensors", entries, size), "Part")


def test_torch_files_keep_views_ties_and_formats(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    content = {
        "turned": whole.t(), "part": whole[1:3, ::2], "whole": whole, "again": whole,
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(3, dtype=torch.int64), "half": torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)),
        "eight": torch.tensor([0.5, -2.0]).to(torch.float8_e5m2),
    }  # fmt: skip
    torch.save(content, tmp_path / "w.pt")
    found = read(tmp_path / "w.pt")
    for name, value in content.items():
        assert found[name].dtype is value.dtype
        assert torch.equal(found[name].float(), value.detach().float()), name
        assert found[name].is_contiguous()


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    at = content.index(b"byteorder")
    start = content.index(b"little", at)
    (tmp_path / "w.pt").write_bytes(content[:start] + b"big" + content[start + 3 :])
    with pytest.raises(UserError):
        read(tmp_path / "w.pt")


# quantised weights

VALUE = torch.linspace(-3, 3, 32).reshape(4, 8)
EIGHT = VALUE.to(torch.float8_e4m3fn)


@pytest.mark.parametrize("spelling", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize(
    ("weight", "scale", "expected"),
    [
        (EIGHT, torch.tensor(0.5), EIGHT.float() * 0.5),
        (EIGHT, torch.tensor([0.5]), EIGHT.float() * 0.5),
        (EIGHT, torch.arange(1.0, 5), EIGHT.float() * torch.tensor([[1.0], [2], [3], [4]])),
        (EIGHT, torch.arange(1.0, 5)[:, None].half(), EIGHT.float() * torch.tensor([[1.0], [2], [3], [4]])),
        (EIGHT, torch.arange(1.0, 9).reshape(4, 2, 1),
         EIGHT.float() * torch.arange(1.0, 9).reshape(4, 2).repeat_interleave(4, dim=1)),
        (torch.arange(-16, 16, dtype=torch.int8).reshape(4, 8), torch.tensor(0.25),
         torch.arange(-16, 16).reshape(4, 8) * 0.25),
    ],
    ids=["number", "one", "rows", "rows in half precision", "groups", "int8"],
)  # fmt: skip
def test_a_scaled_weight_is_the_product(
    tmp_path: Path, spelling: str, weight: Tensor, scale: Tensor, expected: Tensor
) -> None:
    save_file({"x.weight": weight, f"x.{spelling}": scale, "x.bias": VALUE[0].clone()}, tmp_path / "w.safetensors")
    found = scaled(open_file(tmp_path / "w.safetensors", "Part"), "Part")
    assert set(found) == {"x.weight", "x.bias"}
    torch.testing.assert_close(numbers(found["x.weight"], "Part"), expected)


def test_plain_fp8_stays_as_it_is(tmp_path: Path) -> None:
    save_file({"x.weight": EIGHT, "model.scaled_fp8": torch.zeros(2).to(EIGHT.dtype)}, tmp_path / "w.safetensors")
    found = scaled(open_file(tmp_path / "w.safetensors", "Part"), "Part")
    assert torch.equal(numbers(found["x.weight"], "Part", torch.float32), EIGHT.float())


def comfy(format: str) -> Tensor:
    return torch.tensor(list(json.dumps({"format": format}).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"x.weight_scale": torch.ones(3)}, r"as \[3\], which does not scale a weight of \[4, 8\]"),
        ({"x.weight_scale": torch.ones(2, 4)}, r"as \[2, 4\], which does not scale"),
        ({"x.weight_scale": torch.tensor(torch.nan)}, "not finite"),
        ({"y.weight_scale": torch.ones(1)}, "the scale of an 8-bit weight, and there is no y.weight"),
        ({"z.weight": VALUE, "z.scale_weight": torch.ones(1)}, "and z.weight is float32"),
        ({"z.weight": EIGHT.clone(), "z.scale_weight": torch.ones(1)}, "x.weight as float8_e4m3fn without its scale"),
        ({"x.weight_scale": torch.ones(1), "x.weight_scale_2": torch.ones(1)}, "quantised as nvfp4"),
        ({"x.weight_scale": torch.ones(1), "x.comfy_quant": comfy("mxfp8")}, "quantised as mxfp8"),
        ({"x.weight_scale": torch.ones(1), "x.comfy_quant": comfy("x")[:5].clone()}, "quantised as something unknown"),
        ({"x.weight_scale_inv": torch.ones(1, 1)}, "quantised as fp8 in blocks"),
        ({"x.weight.absmax": torch.ones(4)}, "quantised as bitsandbytes"),
    ],
)
def test_other_quantisation_is_named(tmp_path: Path, others: dict[str, Tensor], expected: str) -> None:
    save_file({"x.weight": EIGHT, **others}, tmp_path / "w.safetensors")

    def load() -> None:
        for stored in scaled(open_file(tmp_path / "w.safetensors", "Part"), "Part").values():
            numbers(stored, "Part")

    with pytest.raises(UserError, match=expected):
        load()


# checkpoints of fit


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A ``last.ckpt`` of a backbone whose weights are all 1, and their average 2."""
    names = Pocket(**SMALL).state_dict()
    codec = {f"codec.{name}": value for name, value in PocketCodec(width=16).state_dict().items()}
    state = {f"backbone.{name}": torch.ones_like(value) for name, value in names.items()} | codec
    state |= {f"average.module.{name}": torch.full_like(value, 2.0) for name, value in names.items()}
    state["average.n_averaged"] = torch.tensor(3)
    content: dict[str, Any] = {"state_dict": state, "pytorch-lightning_version": "2.6.0"}
    content |= {"optimizer_states": [{"state": {0: {"step": torch.tensor(1)}}}], "epoch": 1}
    torch.save(content, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_the_average_of_a_training_checkpoint_is_loaded(training: Path) -> None:
    model = Pocket(**SMALL, weights=str(training))
    assert all(value.eq(2).all() for value in model.parameters())
    codec = PocketCodec(width=16, weights=str(training)).state_dict()
    expected = torch.load(training, weights_only=True)["state_dict"]
    assert all(torch.equal(value, expected[f"codec.{name}"]) for name, value in codec.items())


def test_a_training_checkpoint_of_something_else_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"net.a": torch.ones(1)}, "pytorch-lightning_version": "2"}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"a Lightning checkpoint without weights named backbone\.\*"):
        Pocket(**SMALL, weights=str(tmp_path / "last.ckpt"))


def test_tensors_that_share_a_storage_are_not_counted_without_end(tmp_path: Path) -> None:
    one = torch.ones(10_000)
    torch.save({f"t{n}": one for n in range(20)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="claims more numbers than it holds"):
        tensors_of(open_torch(tmp_path / "w.pt", "Part"), tmp_path / "w.pt", "Part")
