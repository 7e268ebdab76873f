"""Features equal what ``transformers`` gives when it is asked directly, and mistakes in folders are one sentence."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rollforge_features.extractors import Clip, Dino
from torch import Tensor

from rollforge.errors import UserError

MEAN, STD = torch.tensor([0.4, 0.5, 0.3]), torch.tensor([0.2, 0.25, 0.3])


def by_hand(frames: Tensor) -> Tensor:
    """The preprocessing of ``conftest.PREPROCESSOR``, spelled out: shorter edge to 18, middle 16 x 16, normalised."""
    pixels = []
    for frame in frames.numpy():
        small = Image.fromarray(frame).resize((27, 18), Image.Resampling.BICUBIC)
        cropped = torch.from_numpy(np.asarray(small).copy())[1:17, 5:21]
        pixels.append((cropped / 255 - MEAN) / STD)
    return torch.stack(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", ["dinov2", "vit"])
def test_dino_is_the_class_token_of_the_model(kind: str, models: dict[str, Path], noise) -> None:
    from transformers import AutoModel

    frames = noise(5)
    with torch.no_grad():
        model = AutoModel.from_pretrained(models[kind]).eval()
        expected = model(by_hand(frames)).last_hidden_state[:, 0]
    torch.testing.assert_close(Dino(str(models[kind]), batch=2).embed(frames), expected, atol=1e-5, rtol=1e-5)


def test_dinov2_has_the_class_token_in_its_pooler_too(models: dict[str, Path], noise) -> None:
    from transformers import Dinov2Model

    with torch.no_grad():
        pooled = Dinov2Model.from_pretrained(models["dinov2"]).eval()(by_hand(noise(2))).pooler_output
    torch.testing.assert_close(Dino(str(models["dinov2"])).embed(noise(2)), pooled, atol=1e-5, rtol=1e-5)


def test_clip_is_the_projected_embedding_or_the_towers_own(models: dict[str, Path], noise) -> None:
    from transformers import CLIPVisionModel, CLIPVisionModelWithProjection

    frames = noise(3)
    with torch.no_grad():
        whole = CLIPVisionModelWithProjection.from_pretrained(models["clip"]).eval()(by_hand(frames)).image_embeds
        tower = CLIPVisionModel.from_pretrained(models["tower"]).eval()(by_hand(frames)).pooler_output
    got = Clip(str(models["clip"])).embed(frames)
    assert got.shape == (3, 12)
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(Clip(str(models["tower"]), projected=False).embed(frames), tower, atol=1e-5, rtol=1e-5)


def test_the_folders_own_processor_agrees_with_the_one_spelled_out(models: dict[str, Path], noise) -> None:
    from transformers import AutoImageProcessor

    for folder in models.values():
        processor = AutoImageProcessor.from_pretrained(folder)
        seen = processor(images=list(noise(2).numpy()), return_tensors="pt", input_data_format="channels_last")
        torch.testing.assert_close(seen["pixel_values"], by_hand(noise(2)), atol=1e-5, rtol=1e-5)


def test_a_frame_has_the_same_features_whatever_comes_with_it(models: dict[str, Path], noise) -> None:
    dino, frames = Dino(str(models["dinov2"]), batch=4), noise(9)
    torch.testing.assert_close(dino.embed(frames), torch.cat([dino.embed(frame[None]) for frame in frames]))


def test_copies_share_the_weights_and_nothing_can_train_them(models: dict[str, Path]) -> None:
    dino = Dino(str(models["dinov2"]))
    assert deepcopy([dino])[0] is dino
    assert not any(parameter.requires_grad for parameter in dino._model.parameters())


def test_folders_that_will_not_do_are_refused_in_one_sentence(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="facebook/dinov2-base is not a folder on this machine, and nothing is downloaded"
    ):
        Dino("facebook/dinov2-base")
    with pytest.raises(UserError, match="holds a clip_vision_model model; it takes vit, dinov2"):
        Dino(str(models["clip"]))
    with pytest.raises(UserError, match=r"lacks 1 of the model's weights \(visual_projection.weight.*random"):
        Clip(str(models["tower"]))
    with pytest.raises(UserError, match=r"Dino\.batch must be a whole number of 1 or more, not 0"):
        Dino(str(models["vit"]), batch=0)
    for name, words in {
        "preprocessor_config.json": "lacks preprocessor_config.json; copy",
        "config.json": "lacks config.json; copy",
        "model.safetensors": "cannot be loaded .*copy",
    }.items():
        broken = shutil.copytree(models["dinov2"], tmp_path / name)
        (broken / name).unlink()
        with pytest.raises(UserError, match=words):
            Dino(str(broken))
    broken = shutil.copytree(models["dinov2"], tmp_path / "half")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        Dino(str(broken))
    assert "\n" not in str(caught.value)


def test_code_in_a_folder_is_never_run(models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["dinov2"], tmp_path / "code")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    Dino(str(folder))
    assert not (tmp_path / "ran").exists()
