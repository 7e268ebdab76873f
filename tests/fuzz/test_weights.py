"""Damaged files of weights: an error, or the very numbers that stand in the file."""

from __future__ import annotations

import json
import math
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import changes, damaged, twisted
from safetensors.torch import save
from torch import Tensor, nn
from watch import answered, fuzz

from rollforge.backbones.tensors import open_file, open_sharded
from rollforge.backbones.torch_file import open_torch
from rollforge.backbones.weights import assign_weights, load_weights
from rollforge.errors import UserError
from rollforge.files.number_formats import FORMATS

Raw = dict[str, tuple[torch.dtype, list[int], bytes]]


class Small(nn.Module):
    """A few numbers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)
        self.brief = nn.Parameter(torch.arange(4.0).bfloat16())
        self.register_buffer("count", torch.tensor([3, -4]))
        self.register_buffer("flag", torch.tensor([True, False]))


@pytest.fixture(scope="module")
def good() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Small().state_dict()


def raw(value: Tensor) -> bytes:
    return bytes(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def standing(content: bytes) -> Raw:
    """What a safetensors file says, read without the library."""
    length = int.from_bytes(content[:8], "little")
    entries, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    entries.pop("__metadata__", None)
    return {
        name: (FORMATS[each["dtype"]], each["shape"], numbers[slice(*each["data_offsets"])])
        for name, each in entries.items()
    }


def agrees(module: Small, expected: Raw) -> None:
    """Asserts that a module holds what the file says, in the module's own formats, and only plain numbers."""
    own = module.state_dict()
    assert own.keys() == expected.keys()
    for name, value in own.items():
        dtype, shape, numbers = expected[name]
        assert list(value.shape) == shape
        if dtype is torch.bool:  # any byte but 0 is true
            numbers = bytes(map(bool, numbers))
        stored = torch.frombuffer(bytearray(numbers), dtype=dtype).reshape(shape)
        assert raw(stored.to(value.dtype)) == raw(value), name
        assert all(math.isfinite(number) for number in value.double().flatten().tolist()), name


def resealed(entries: Any, numbers: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def test_safetensors(tmp_path: Path, good: dict[str, Tensor]) -> None:
    content, file = save(good, {"word": "said"}), tmp_path / "small.safetensors"
    length = 8 + int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8:length]), content[length:]

    def door(given: bytes) -> str:
        file.write_bytes(given)
        module = Small()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        answer = answered(lambda: load_weights(module, file), lambda _: agrees(module, standing(given)))
        if answer == "errors":
            assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        return answer

    bytes_changed = changes(len(content), [(length, len(content) - 1)]).map(lambda made: damaged(content, made))
    fuzz("safetensors", 125, bytes_changed | twisted(header).map(lambda entries: resealed(entries, numbers)), door)


def test_torch_files(tmp_path: Path, good: dict[str, Tensor]) -> None:
    written = BytesIO()
    torch.save(good, written)
    content, file = written.getvalue(), tmp_path / "small.pt"
    places = [at for at in range(len(content)) if content[at : at + 2] == b"PK"]
    pickle = content.index(b"\x80\x02")

    def load() -> Small:
        module = Small().to("meta")
        assign_weights(module, open_file(file, "Small"), file, torch.float32)
        return module

    def right(module: Small) -> None:
        try:
            whole = torch.load(file, map_location="cpu", weights_only=True)  # read, where the package maps it
        except RuntimeError:  # of a local header, which a mapped file needs not
            whole = dict(module.state_dict())
        for name, value in module.state_dict().items():
            assert value.shape == good[name].shape
            assert torch.equal(value, whole[name].to(value.dtype)), name
            assert all(math.isfinite(number) for number in value.double().flatten().tolist()), name

    def door(made: Any) -> str:
        file.write_bytes(damaged(content, made))
        return answered(load, right)

    hot = [(at, at + 46) for at in places] + [(pickle, pickle + 600)]
    fuzz("torch", 125, changes(len(content), hot), door)


def test_a_header_that_moves_numbers_is_refused(tmp_path: Path, good: dict[str, Tensor]) -> None:
    """Found by the test above: two bytes, and a storage began elsewhere in the file."""
    file = tmp_path / "small.pt"
    torch.save(good, file)
    with zipfile.ZipFile(file) as archive:
        at = next(entry.header_offset for entry in archive.infolist() if entry.filename.endswith("data/0"))
    content = bytearray(file.read_bytes())
    for length in (0, 255):
        content[at + 28 : at + 30] = length.to_bytes(2, "little")  # of what pads it
        file.write_bytes(content)
        with pytest.raises(UserError, match="its records overlap or leave gaps"):
            open_torch(file, "Small")


def test_indices_of_shards(tmp_path: Path, good: dict[str, Tensor]) -> None:
    parts = {"a.safetensors": list(good)[:2], "b.safetensors": list(good)[2:]}
    for name, keys in parts.items():
        (tmp_path / name).write_bytes(save({key: good[key] for key in keys}))
    listed = {key: name for name, keys in parts.items() for key in keys}
    document = {"metadata": {"total_size": 100}, "weight_map": listed}
    index, text = tmp_path / "model.safetensors.index.json", json.dumps(document).encode()

    def right(tensors: Any) -> None:
        for name, stored in tensors.items():
            assert torch.equal(stored.read(), good[name])
            assert stored.file.parent == tmp_path

    def door(given: bytes) -> str:
        index.write_bytes(given)
        return answered(lambda: open_sharded(index, "Small"), right)

    text_changed = changes(len(text)).map(lambda made: damaged(text, made))
    fuzz("indices", 60, text_changed | twisted(document).map(lambda odd: json.dumps(odd).encode()), door)
