"""Prompts through a small umT5, against transformers used by hand."""

from __future__ import annotations

import gc
import html
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from release import Release, sentencepiece, write_release
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from rollforge.backbones.base import Conditioner
from rollforge.backbones.wan import text_files
from rollforge.backbones.wan.text import UMT5, clean
from rollforge.errors import UserError
from rollforge.registry import registry

LENGTH = 16
PROMPTS = ["a red box over snow", "", "red  &amp;amp; blue"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def copied(release: Release, tmp_path: Path) -> Release:
    """A release to damage."""
    folder = tmp_path / "copy"
    shutil.copytree(release.diffusers.parent, folder)
    return Release(*(folder / path.relative_to(release.diffusers.parent) for path in release))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache" / "rollforge" / "text"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever an encoder is built."""
    built: list[int] = []
    init = UMT5EncoderModel.__init__

    def counted(self: UMT5EncoderModel, config: UMT5Config) -> None:
        built.append(1)
        init(self, config)

    monkeypatch.setattr(UMT5EncoderModel, "__init__", counted)
    return built


def umt5(path: Path, **options: Any) -> UMT5:
    return UMT5(str(path), **{"length": LENGTH, "device": "cpu", **options})


def by_hand(release: Release, prompts: list[str], length: int = LENGTH, dtype: torch.dtype = torch.float32) -> Tensor:
    """As the Wan release uses it: padded to the full length under a mask, then zeros after the end."""
    tokenizer = AutoTokenizer.from_pretrained(release.diffusers / "tokenizer")
    model = UMT5EncoderModel.from_pretrained(release.diffusers / "text_encoder", dtype=dtype).eval()
    texts = [" ".join(html.unescape(html.unescape(prompt)).split()) for prompt in prompts]
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        features = model(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return features * tokens.attention_mask[..., None]


@pytest.mark.parametrize("layout", Release._fields)
def test_features_are_those_of_transformers(release: Release, layout: str) -> None:
    embeds = umt5(getattr(release, layout))(PROMPTS).embeds
    torch.testing.assert_close(embeds, by_hand(release, PROMPTS), rtol=1e-5, atol=1e-5)
    assert embeds.std() > 0.1


def test_the_folder_of_the_original_release_and_of_the_encoder_alone_will_do(release: Release) -> None:
    whole = umt5(release.diffusers)(PROMPTS)
    for path in (release.original.parent, release.diffusers / "text_encoder"):
        torch.testing.assert_close(umt5(path)(PROMPTS).embeds, whole.embeds)


def comfy(folder: Path, state: dict[str, Tensor]) -> Path:
    """One file as ComfyUI has it, without a config, and with the tokenizer inside."""
    inside = {"spiece_model": torch.tensor(list(sentencepiece()), dtype=torch.uint8)}
    folder.mkdir()
    save_file({name: value.clone() for name, value in (state | inside).items()}, folder / "umt5_xxl.safetensors")
    return folder / "umt5_xxl.safetensors"


def test_a_file_of_comfyui_has_its_tokenizer_inside(copied: Release, tmp_path: Path) -> None:
    state = load_file(copied.transformers / "model.safetensors")
    state.pop("encoder.embed_tokens.weight", None)
    expected = umt5(copied.diffusers)(PROMPTS).embeds
    file = comfy(tmp_path / "exact", state)
    for named in (file, file.parent):
        torch.testing.assert_close(umt5(named)(PROMPTS).embeds, expected, rtol=1e-5, atol=1e-5)
    stored: dict[str, Tensor] = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for name in [name for name in state if name.endswith((".q.weight", ".wo.weight"))]:
        factor = state[name].abs().max() / 448
        stored |= {name: (state[name] / factor).to(torch.float8_e4m3fn), name.replace("weight", "scale_weight"): factor}
        state[name] = stored[name].float() * factor
    file = comfy(tmp_path / "rounded", state | stored)
    save_file(state, copied.transformers / "model.safetensors", {"format": "pt"})
    rounded = umt5(copied.transformers)(PROMPTS).embeds
    assert (rounded - expected).norm() > 0.01 * expected.norm()
    torch.testing.assert_close(umt5(file)(PROMPTS).embeds, rounded, rtol=1e-5, atol=1e-5)


def test_a_damaged_tokenizer_inside_is_named(release: Release, tmp_path: Path) -> None:
    file = comfy(tmp_path / "comfy", load_file(release.transformers / "model.safetensors"))
    state = load_file(file)
    for broken in (b"", b"\x0a\xff\xff\xff\xff\x7f", sentencepiece()[:-3], sentencepiece()[9:], b"\x0a\x02\x0a\x00"):
        save_file(state | {"spiece_model": torch.tensor(list(broken or b"?"), dtype=torch.uint8)}, file)
        fails("no tokenizer that transformers can read", file, prompt=f"new {len(broken)}")


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("outside", ["../secret", "/etc/secret", "sub/secret", "..\\secret"])
def test_an_index_names_files_beside_it_only(copied: Release, suffix: str, outside: str) -> None:
    folder, name = copied.transformers, "pytorch_model.bin" if suffix == "bin" else "model.safetensors"
    (folder / "model.safetensors").rename(folder.parent / f"secret.{suffix}")
    (folder / f"{name}.index.json").write_text(json.dumps({"weight_map": {"a": f"{outside}.{suffix}"}}))
    fails("which is not a weights file next to it", folder)


def test_tied_weights_of_a_bin_load(copied: Release) -> None:
    state = UMT5EncoderModel.from_pretrained(copied.transformers).state_dict()
    big = torch.nn.functional.pad(state["shared.weight"], (0, 0, 0, 4000))  # so large that it counts twice
    folder = copied.transformers
    torch.save(state | {"shared.weight": big, "encoder.embed_tokens.weight": big}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 4040}))
    expected = umt5(copied.diffusers)(PROMPTS).embeds
    torch.testing.assert_close(umt5(folder)(PROMPTS).embeds, expected, rtol=1e-5, atol=1e-5)


def test_names_of_the_original_release(release: Release) -> None:
    state = torch.load(release.original, weights_only=True)
    inner = ("norm1", "attn.q", "attn.k", "attn.v", "attn.o", "norm2", "ffn.gate.0", "ffn.fc1", "ffn.fc2")
    inner = (*inner, "pos_embedding.embedding")
    blocks = {f"blocks.{n}.{name}.weight" for n in range(3) for name in inner}
    assert set(state) == blocks | {"token_embedding.weight", "norm.weight"}


def test_512_tokens_and_zeros_after_the_end(release: Release) -> None:
    embeds = UMT5(str(release.diffusers), device="cpu")(["a red box", ""]).embeds
    assert embeds.shape == (2, 512, 24)
    assert embeds.any(dim=2).sum(dim=1).tolist() == [4, 1]  # an empty prompt is its end alone
    torch.testing.assert_close(embeds, by_hand(release, ["a red box", ""], 512), rtol=1e-5, atol=1e-5)


def test_bf16(release: Release) -> None:
    embeds = umt5(release.diffusers, dtype="bf16")(PROMPTS).embeds
    assert embeds.dtype == torch.bfloat16
    expected = by_hand(release, PROMPTS, dtype=torch.bfloat16)
    assert (embeds - expected).norm() < 0.02 * expected.norm()  # without padding, sums are rounded in another order
    assert umt5(release.diffusers)(PROMPTS).embeds.dtype == torch.float32  # another entry of the cache


def test_what_lightning_puts_around_it_does_not_reach_the_encoder(release: Release, tmp_path: Path) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        inside = umt5(release.diffusers)(PROMPTS)
    assert inside.id == umt5(release.diffusers, cache=str(tmp_path / "other"))(PROMPTS).id


def test_a_long_prompt_is_cut_and_keeps_its_end(release: Release, caplog: pytest.LogCaptureFixture) -> None:
    long = "red " * 40
    embeds = umt5(release.diffusers)([long]).embeds
    torch.testing.assert_close(embeds, by_hand(release, [long]), rtol=1e-5, atol=1e-5)
    assert "41 tokens and is cut to 16" in caplog.text


def test_prompts_are_cleaned_as_in_the_release() -> None:
    assert clean("  two\n\twords  ") == "two words"
    assert clean("&amp;lt;b&amp;gt; &quot;") == '<b> "'
    assert clean("â€œsmartâ€\x9d donâ€™t") == '"smart" don\'t'
    assert clean(" \n ") == ""


def test_equal_ids_mean_equal_features(release: Release) -> None:
    text = umt5(release.diffusers)
    assert text(["a red box"]).id == text([" a  red\nbox "]).id == umt5(release.transformers)(["a red box"]).id
    batches = [["a"], ["b"], ["a", "b"], ["b", "a"], ["a", "a"], [""], ["", ""]]
    ids = [text(batch).id for batch in batches] + [umt5(release.diffusers, length=8)(["a"]).id]
    assert len(set(ids)) == len(ids)


def test_rows_do_not_depend_on_their_neighbours(release: Release, tmp_path: Path) -> None:
    together = umt5(release.diffusers)(PROMPTS).embeds
    for n, prompt in enumerate(PROMPTS):
        alone = umt5(release.diffusers, cache=str(tmp_path / str(n)))([prompt]).embeds
        assert torch.equal(together[n], alone[0])


def test_the_encoder_is_loaded_for_new_prompts_only(release: Release, loads: list[int]) -> None:
    first = umt5(release.diffusers)(PROMPTS)
    again = umt5(release.diffusers)([f" {prompt} " for prompt in PROMPTS])
    assert len(loads) == 1
    assert again.id == first.id
    assert torch.equal(again.embeds, first.embeds)
    umt5(release.diffusers)([*PROMPTS, "new"])
    assert len(loads) == 2


def test_checked_prompts_are_encoded_in_one_loading(release: Release, loads: list[int]) -> None:
    text = umt5(release.diffusers)
    text.check(PROMPTS)
    assert not loads
    for prompt in ("negative", *PROMPTS):
        text([prompt])
    assert len(loads) == 1


def test_the_encoder_is_gone_after_the_prompts(release: Release, caplog: pytest.LogCaptureFixture) -> None:
    text = umt5(release.diffusers)
    with caplog.at_level(logging.INFO):
        text(PROMPTS)
    assert not any(type(each) is UMT5EncoderModel for each in gc.get_objects())
    assert "for 3 new prompts" in caplog.text
    assert "Freed" in caplog.text
    assert not text.state_dict()
    assert not list(text.modules())[1:]


def test_the_cache_is_safetensors_and_nothing_half_written(release: Release, cache: Path, tmp_path: Path) -> None:
    umt5(release.diffusers)(PROMPTS)
    kept = list(cache.iterdir())
    assert len(kept) == len(PROMPTS)
    assert {file.suffix for file in kept} == {".safetensors"}
    assert sorted(len(load_file(file)["features"]) for file in kept)[0] == 1
    umt5(release.diffusers, cache=str(tmp_path / "mine"))(PROMPTS)
    assert len(list((tmp_path / "mine").iterdir())) == len(PROMPTS)


def test_the_cache_is_in_the_users_cache_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert UMT5().cache.folder == cache
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification says to ignore
    assert UMT5().cache.folder == tmp_path / ".cache" / "rollforge" / "text"


@pytest.mark.parametrize("damage", ["empty", "short", "changed", "swapped"])
def test_a_damaged_entry_is_made_anew(
    release: Release, cache: Path, damage: str, loads: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    before = umt5(release.diffusers)(["a red box"])
    (file,) = cache.iterdir()
    content = file.read_bytes()
    if damage == "swapped":
        save_file({"features": torch.zeros(4, 24)}, file)
    else:
        file.write_bytes({"empty": b"", "short": content[:-8], "changed": content[:-1] + b"\x55"}[damage])
    after = umt5(release.diffusers)(["a red box"])
    assert after.id == before.id
    assert f"damaged text features {file}" in caplog.text
    assert umt5(release.diffusers)(["a red box"]).id == before.id
    assert len(loads) == 2


@pytest.mark.parametrize("whole", [text_files.WHOLE, 5000])
def test_another_encoder_at_the_same_place_is_not_served_from_the_cache(
    copied: Release, tmp_path: Path, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "WHOLE", whole)
    before = umt5(copied.diffusers)(["a red box"])
    shutil.rmtree(copied.diffusers)
    write_release(tmp_path / "other", seed=1).diffusers.rename(copied.diffusers)
    assert umt5(copied.diffusers)(["a red box"]).id != before.id


def test_a_moved_encoder_is_served_from_the_cache(copied: Release, loads: list[int]) -> None:
    before = umt5(copied.diffusers)(["a red box"])
    moved = copied.diffusers.rename(copied.diffusers.with_name("moved"))
    assert umt5(moved)(["a red box"]).id == before.id
    assert len(loads) == 1


def test_options_on_the_command_line(release: Release) -> None:
    registry().load()
    parser = LightningArgumentParser()
    parser.add_subclass_arguments(Conditioner, "conditioner")
    chosen = ["--conditioner", "UMT5", "--conditioner.weights", str(release.diffusers), "--conditioner.device", "cpu"]
    made = parser.instantiate(parser.parse_args([*chosen, "--conditioner.dtype", "bf16"])).conditioner
    assert made(["a"]).embeds.dtype == torch.bfloat16
    with pytest.raises(SystemExit):
        parser.parse_args([*chosen, "--conditioner.dtype", "fp8"])


def fails(match: str, path: Path, prompt: str = "a red box", **options: Any) -> None:
    with pytest.raises(UserError, match=match):
        umt5(path, **options)([prompt])


def test_mistakes_in_the_options(release: Release, tmp_path: Path) -> None:
    fails("'gpu' is not a device; expected auto, cpu", release.diffusers, device="gpu")
    fails("UMT5.dtype must be one of 'auto', 'bf16', 'fp32', not 'fp8'", release.diffusers, dtype="fp8")
    fails("UMT5.length must be a whole number from 1 to 65,536, not 0", release.diffusers, length=0)
    (tmp_path / "file").touch()
    for call in (UMT5.check, UMT5.__call__):
        with pytest.raises(UserError, match=r"cannot be written to .*choose another folder"):
            call(umt5(release.diffusers, cache=str(tmp_path / "file")), ["a"])


def test_a_gpu_that_is_not_there(release: Release) -> None:
    for device in ("cuda:99", "xpu"):
        with pytest.raises(UserError, match=f"no device {device} here"):
            umt5(release.diffusers, device=device).check(["a"])


@pytest.mark.parametrize("package", ["transformers", "ftfy"])
def test_a_missing_package(release: Release, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs the package {package}.*pip install 'rollforge\[wan\]'"
    fails(message, release.diffusers)
    with pytest.raises(UserError, match=message):
        umt5(release.diffusers).check([])


def test_missing_files(copied: Release, tmp_path: Path) -> None:
    fails("no file or folder /nowhere", Path("/nowhere"))
    fails("no file or folder here/model.pth", Path("here/model.pth"))
    fails(r"holds no umT5 encoder; expected text_encoder/", tmp_path)
    fails(r"holds no tokenizer; expected a folder with tokenizer.json", copied.diffusers, tokenizer=str(tmp_path))
    shutil.rmtree(copied.diffusers / "tokenizer")
    with pytest.raises(UserError, match=r"holds no tokenizer; expected .*--model.conditioner.tokenizer"):
        umt5(copied.diffusers).check(["a"])
    shard = next((copied.diffusers / "text_encoder").glob("*.safetensors"))
    shard.unlink()
    fails(f"lacks {shard.name}", copied.diffusers)
    (copied.transformers / "model.safetensors").unlink()
    fails("holds no weights; expected model.safetensors", copied.transformers)


def test_an_id_that_cannot_be_reached(copied: Release) -> None:
    fails(r"some/model is not a file or folder here.*hf download some.*--model.conditioner.weights", Path("some/model"))
    fails(r"hf download me/words.*tokenizer.json.*huggingface.co/me/words", copied.diffusers, tokenizer="me/words")
    shutil.rmtree(copied.original.parent / "google")
    fails(r"hf download .*https://huggingface.co/google/umt5-xxl.*--model.conditioner.tokenizer", copied.original)
    words = copied.diffusers / "tokenizer"
    assert umt5(copied.original, tokenizer=str(words))(["a"]).embeds.shape == (1, LENGTH, 24)


def test_damaged_files(copied: Release) -> None:
    copied.original.write_bytes(copied.original.read_bytes()[:5000])
    fails("is truncated, or was not written by torch.save", copied.original)
    torch.save([torch.zeros(3)], copied.original)
    fails("holds no named tensors but a list", copied.original)
    torch.save({"weight": torch.zeros(3)}, copied.original)
    fails("holds no umT5 encoder .*expected models_t5", copied.original)
    torch.save({"weight": torch.zeros(3)}, copied.original, _use_new_zipfile_serialization=False)  # cannot be mapped
    fails("is truncated, or was not written by torch.save", copied.original)
    torch.save({"weight": Path("/")}, copied.original)  # would run code if it were unpickled
    fails("which could run code and is not opened", copied.original)
    (copied.transformers / "model.safetensors").write_bytes(b"none")
    fails("is not a readable safetensors file", copied.transformers)
    (copied.diffusers / "tokenizer" / "tokenizer.json").write_text("{")
    fails("no tokenizer that transformers can read", copied.diffusers)
    (copied.diffusers / "text_encoder" / "model.safetensors.index.json").write_text("[]")
    fails("is not an index of weights files", copied.diffusers)


def test_weights_that_do_not_fit(copied: Release) -> None:
    state = torch.load(copied.original, weights_only=True)
    torch.save({**state, "blocks.1.attn.k.weight": torch.zeros(3, 3)}, copied.original)
    fails(r"block.1.layer.0.SelfAttention.k.weight is \[3, 3\], expected \[16, 24\]", copied.original)
    torch.save({name: value for name, value in state.items() if name != "blocks.2.norm2.weight"}, copied.original)
    fails("block.2.layer.1.layer_norm.weight is missing", copied.original)
    torch.save({**state, "extra.weight": torch.zeros(1)}, copied.original)
    fails("extra.weight is unexpected", copied.original)
    torch.save({**state, "norm.weight": torch.full((24,), torch.nan)}, copied.original)
    fails("are not finite", copied.original)
    torch.save({**state, "token_embedding.weight": torch.zeros(5, 24)}, copied.original)
    fails("does not belong to this encoder of 5 tokens", copied.original)


def test_the_config_of_another_model(copied: Release) -> None:
    config = copied.transformers / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "bert"}))
    fails("describes a bert model; expected umt5", copied.transformers)
    config.write_text("{")
    fails("is not a config of an encoder", copied.transformers)


def test_choosing_it_or_the_codec_imports_no_other_library() -> None:
    libraries = {"transformers", "ftfy", "diffusers"}
    code = "import sys, rollforge.backbones.wan.text, rollforge.backbones.wan.codec;"
    code += f"sys.exit(not {libraries}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
