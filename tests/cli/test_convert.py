"""``rollforge convert``: published weights to one safetensors file, read back with the library."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import finalize

import pytest
import torch
from checkpoints import UNSEEN, State, diffusers, family, lora, peft, sharded, state
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rollforge import __version__
from rollforge.backbones.tensors import numbers
from rollforge.backbones.wan.network import Wan
from rollforge.cli import main

ErrorLine = Callable[[int], str]


@pytest.fixture(scope="module")
def weights() -> State:
    return state()


@pytest.fixture
def source(tmp_path: Path, weights: State) -> Path:
    """Self Forcing's kind of file, with other weights next to the averaged ones."""
    return family(tmp_path / "self_forcing_dmd.pt", state(seed=1), weights)


def convert(source: Path, *options: str) -> tuple[State, dict[str, str]]:
    """Runs the command; the tensors and the metadata of its file, as the library reads them."""
    destination = source.parent / "made" / "wan.safetensors"
    assert main(["convert", str(source), str(destination), *options]) == 0
    assert sorted(destination.parent.iterdir()) == [destination]
    with safe_open(destination, "pt") as opened:
        return load_file(destination), opened.metadata()


def equal(found: State, expected: State) -> bool:
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        name: (value.shape, value.dtype) for name, value in expected.items()
    }
    return all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_averaged_weights_are_written_with_their_origin(
    source: Path, weights: State, capsys: pytest.CaptureFixture[str]
) -> None:
    found, about = convert(source)
    assert equal(found, weights)
    assert about == {
        "format": "pt",
        "rollforge": __version__,
        "source": "self_forcing_dmd.pt",
        "source_sha256": sha256(source.read_bytes()).hexdigest(),
        "taken": "generator_ema",
        "layout": "wan",
    }
    printed, bars = capsys.readouterr()
    count = sum(value.numel() for value in weights.values())
    assert f"{source} (generator_ema): {count:,} parameters" in printed
    assert "made/wan.safetensors" in printed
    assert "writing" in bars
    assert "100%" in bars


def test_the_trained_weights_can_be_chosen(source: Path) -> None:
    found, about = convert(source, "--ema", "false")
    assert equal(found, state(seed=1))
    assert about["taken"] == "generator"


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_names_and_number_format_can_be_chosen(
    source: Path, weights: State, dtype: str, torch_dtype: torch.dtype
) -> None:
    found, about = convert(source, "--layout", "diffusers", "--dtype", dtype)
    assert equal(found, {name: value.to(torch_dtype) for name, value in diffusers(weights).items()})
    assert about["layout"] == "diffusers"


def test_every_tensor_keeps_its_own_format(tmp_path: Path, weights: State) -> None:
    mixed = {name: value if "norm" in name else value.bfloat16() for name, value in weights.items()}
    torch.save(mixed, tmp_path / "w.pt")
    found, about = convert(tmp_path / "w.pt")
    assert equal(found, mixed)
    assert about["taken"] == "all"


def test_shards_become_one_file_and_name_all_their_sources(tmp_path: Path, weights: State) -> None:
    index = sharded(tmp_path / "transformer", diffusers(weights))
    found, about = convert(tmp_path / "transformer" / index.name)
    assert equal(found, weights)
    shards = sorted(index.parent.glob("*.safetensors"))
    assert about["source"] == ", ".join(file.name for file in shards)
    assert about["source_sha256"] == ", ".join(sha256(file.read_bytes()).hexdigest() for file in shards)


def test_a_lora_is_merged(source: Path, weights: State) -> None:
    pairs, file = lora(weights), source.with_name("lora.pt")
    torch.save({"generator_lora": peft(pairs)}, file)
    found, about = convert(source, "--lora", str(file), "--lora_alpha", "6")
    for module, (down, up) in pairs.items():  # of rank 3
        torch.testing.assert_close(found[f"{module}.weight"], weights[f"{module}.weight"] + 2 * (up @ down))
    assert (about["lora"], about["lora_alpha"]) == ("lora.pt", "6.0")
    assert about["lora_sha256"] == sha256(file.read_bytes()).hexdigest()


def test_several_loras_are_merged_by_their_strengths(source: Path, weights: State) -> None:
    one, two = lora(weights, seed=5), lora(weights, rank=2, seed=6)
    torch.save(peft(one), source.with_name("one.pt"))
    save_file(peft(two), source.with_name("two.safetensors"))
    files = ["--lora", str(source.with_name("one.pt")), "--lora", str(source.with_name("two.safetensors"))]
    found, about = convert(source, *files, "--lora_strength", "0.5", "--lora_strength", "-2")
    for module in one:
        delta = 0.5 * one[module][1] @ one[module][0] - 2 * two[module][1] @ two[module][0]
        torch.testing.assert_close(found[f"{module}.weight"], weights[f"{module}.weight"] + delta)
    assert (about["lora"], about["lora_strength"]) == ("one.pt, two.safetensors", "0.5, -2.0")


@pytest.mark.parametrize(
    ("given", "expected"), [(["1"], "2 --lora and 1 --lora_strength"), (["1", "nan"], "--lora_strength")]
)
def test_strengths_must_go_with_the_loras(source: Path, error_line: ErrorLine, given: list[str], expected: str) -> None:
    out, strengths = str(source.with_name("out.safetensors")), [f"--lora_strength={each}" for each in given]
    assert expected in error_line(main(["convert", str(source), out, "--lora", "a.pt", "--lora", "b.pt", *strengths]))


def test_what_is_written_loads_and_converts_back(source: Path, weights: State) -> None:
    convert(source, "--layout", "diffusers")
    made = source.parent / "made" / "wan.safetensors"
    model = Wan(weights=str(made), dtype="fp32", **UNSEEN)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())
    assert main(["convert", str(made), str(source.parent / "back.safetensors")]) == 0
    assert equal(load_file(source.parent / "back.safetensors"), weights)


def test_the_file_is_laid_out_as_the_format_says(source: Path) -> None:
    convert(source, "--dtype", "bf16")
    raw = (source.parent / "made" / "wan.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    places = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    assert (8 + length) % 8 == 0
    assert places[0][0] == 0
    assert all(before[1] == after[0] for before, after in pairwise(places))
    assert places[-1][1] == len(raw) - 8 - length


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["nowhere.pt", "w.safetensors"], ["nowhere.pt", "no weights file or folder"]),
        (["{source}", "w.pt"], ["w.pt", "must end in .safetensors"]),
        (["{source}", "{taken}"], ["exists already", "choose another name"]),
        (["{source}", "{folder}/w.safetensors", "--lora", "no.safetensors"], ["no weights file no.safetensors"]),
        (["{vae}", "{folder}/w.safetensors"], ["is a video codec (VAE)", "text-to-video"]),
        (["{vae}", "{folder}/w.safetensors", "--ema", "true"], ["one set of weights", "ema"]),
        (["{source}", "w.safetensors", "--layout", "wam"], ["--layout", "'wam'", "wan"]),
        (["{source}", "w.safetensors", "--ema", "yes"], ["--ema", "'yes'", "true"]),
        (["{source}"], ["destination", "rollforge convert --help"]),
    ],
)
def test_a_mistake_is_one_sentence(
    source: Path, error_line: ErrorLine, monkeypatch: pytest.MonkeyPatch, options: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(source.parent)
    places = {"folder": source.parent / "out", "source": source, "vae": source.with_name("vae.safetensors")}
    places["taken"] = source.with_name("taken.safetensors")
    save_file({"decoder.x": torch.ones(1)}, places["vae"])
    places["taken"].write_bytes(b"mine")
    message = error_line(main(["convert", *(option.format(**places) for option in options)]))
    assert all(words in message for words in expected), message
    assert not (source.parent / "out").exists()
    assert places["taken"].read_bytes() == b"mine"


@pytest.mark.parametrize("trouble", ["not finite", "full disk", "no folder"])
def test_what_goes_wrong_on_the_way_leaves_nothing_behind(
    source: Path, weights: State, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    out = source.parent / "out" / "w.safetensors"
    if trouble == "not finite":
        broken: Any = weights | {"head.head.bias": weights["head.head.bias"] * torch.nan}
        family(source, weights, broken)
    elif trouble == "no folder":
        out.parent.write_text("a file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if trouble == "full disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        assert main(["convert", str(source), str(out)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = capsys.readouterr().err.splitlines()[-1]
    expected = {"not finite": "not finite", "full disk": "File too large", "no folder": "cannot be made"}
    assert message.startswith("rollforge: ")
    assert expected[trouble] in message
    assert not list(source.parent.glob("out/*"))


def test_one_tensor_at_a_time_is_in_memory(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: set[int] = set()
    most = 0

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal most
        value = numbers(*arguments)
        alive.add(id(value))
        finalize(value, alive.discard, id(value))
        most = max(most, len(alive))
        return value

    monkeypatch.setattr("rollforge.backbones.tensor_writer.numbers", counted)
    convert(source)
    assert most == 1
