"""Loading a checkpoint of the standalone host: everything arrives, and anything else is refused in one line."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from lib_masactrl.errors import SettingsError, UnsupportedModelError
from lib_masactrl.host.standalone.checkpoint import load_checkpoint
from lib_masactrl.layers import self_attention_layers
from tests.small_models import config

POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def rewritten(checkpoint, folder, change, **parameters):
    """A copy of the checkpoint with changed tensors or yaml parameters."""
    tensors = load_file(checkpoint)
    change(tensors)
    save_file(tensors, folder / "other.safetensors")
    tokenizer = {"target": "FrozenCLIPEmbedder", "params": {"version": str(checkpoint.parent / "tokenizer")}}
    parameters = {"cond_stage_config": tokenizer, **parameters}
    OmegaConf.save(OmegaConf.create(config(**parameters)), folder / "other.yaml")
    return folder / "other.safetensors"


def test_every_weight_arrives_under_its_name(model, checkpoint):
    tensors = load_file(checkpoint)
    for prefix, network in (
        ("model.diffusion_model.", model.unet),
        ("first_stage_model.", model.autoencoder),
        ("cond_stage_model.transformer.text_model.", model.text_encoder.transformer),
    ):
        names = [name for name in tensors if name.startswith(prefix) and name != POSITION_IDS]
        state = {name.removeprefix("text_model."): value for name, value in network.state_dict().items()}
        assert len(names) == len([name for name in state if not name.endswith("position_ids")])
        assert all(torch.equal(state[name.removeprefix(prefix)], tensors[name]) for name in names)
        assert not any(parameter.is_meta or parameter.requires_grad for parameter in network.parameters())
    assert len(self_attention_layers(model.unet)) == 16


def test_the_networks_compute_what_ldm_and_transformers_do(model):
    """Encoder and decoder fit together, and the text encoder pads with the end token as FrozenCLIPEmbedder does."""
    latents = model.autoencoder.encode(torch.zeros(1, 3, 64, 128)).mode()
    assert latents.shape == (1, 4, 8, 16)
    assert model.autoencoder.decode(latents).shape == (1, 3, 64, 128)
    ids = model.text_encoder.tokenizer(["ab"], padding="max_length", max_length=77)["input_ids"][0]
    assert ids[0] == 512 and ids[3:] == [513] * 74
    expected = model.text_encoder.transformer(input_ids=torch.tensor([ids])).last_hidden_state
    assert torch.equal(model.text_encoder(["ab"]), expected)


def test_a_checkpoint_without_position_ids_and_with_spare_tensors_loads(checkpoint, tmp_path, model):
    def change(tensors):
        del tensors[POSITION_IDS]
        tensors.update({"model_ema.decay": torch.ones(1), "sqrt_alphas_cumprod": torch.ones(1000)})

    other = load_checkpoint(rewritten(checkpoint, tmp_path, change), "cpu")
    assert torch.equal(other.text_encoder(["a cat"]), model.text_encoder(["a cat"]))


def test_half_precision_weights_are_used_as_float32(checkpoint, tmp_path):
    def change(tensors):
        tensors.update({name: value.half() for name, value in tensors.items() if value.is_floating_point()})

    other = load_checkpoint(rewritten(checkpoint, tmp_path, change), "cpu")
    assert {parameter.dtype for parameter in other.unet.parameters()} == {torch.float32}


def test_the_noise_schedule_comes_from_the_yaml_or_else_from_the_checkpoint(checkpoint, tmp_path, model):
    other = load_checkpoint(
        rewritten(checkpoint, tmp_path, lambda tensors: None, linear_start=None, linear_end=None), "cpu"
    )
    assert len(model.betas) == len(other.betas) == 1000
    assert model.betas[0] == pytest.approx(0.00085) and model.betas[-1] == pytest.approx(0.012)
    torch.testing.assert_close(torch.tensor(other.betas), torch.tensor(model.betas), rtol=2e-3, atol=0)


def test_the_yaml_says_what_the_unet_predicts(checkpoint, tmp_path, model):
    other = load_checkpoint(rewritten(checkpoint, tmp_path, lambda tensors: None, parameterization="v"), "cpu")
    assert (model.config.prediction_type, other.config.prediction_type) == ("epsilon", "v_prediction")


def remove_one(tensors):
    del tensors["model.diffusion_model.out.2.weight"]


def add_one(tensors):
    tensors["first_stage_model.another.weight"] = torch.ones(1)


def reshape_one(tensors):
    tensors["first_stage_model.quant_conv.bias"] = torch.ones(3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove_one, "1 missing (model.diffusion_model.out.2.weight)"),
        (add_one, "1 unexpected (first_stage_model.another.weight)"),
        (reshape_one, "1 of another shape (first_stage_model.quant_conv.bias)"),
    ],
)
def test_other_tensors_than_the_yaml_describes_are_refused(checkpoint, tmp_path, change, said):
    with pytest.raises(UnsupportedModelError) as caught:
        load_checkpoint(rewritten(checkpoint, tmp_path, change), "cpu")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"scale_factor": None}, "model.params.scale_factor"),
        ({"parameterization": "x0"}, "'x0'"),
        ({"unet_config": {"target": "sgm.modules.diffusionmodules.openaimodel.UNetModel"}}, "wants sgm"),
        ({"unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel"}}, "unet_config.params"),
        (
            {"cond_stage_config": {"target": "FrozenOpenCLIPEmbedder", "params": {"version": "nowhere"}}},
            "wants FrozenOpen",
        ),
        ({"cond_stage_config": {"target": "FrozenCLIPEmbedder", "params": {"version": "nowhere"}}}, "'nowhere'"),
    ],
)
def test_a_yaml_of_something_else_is_refused(checkpoint, tmp_path, parameters, said):
    with pytest.raises(UnsupportedModelError, match=said):
        load_checkpoint(rewritten(checkpoint, tmp_path, lambda tensors: None, **parameters), "cpu")


def test_missing_and_broken_files_are_refused(checkpoint, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not safetensors at all")
    lonely = tmp_path / "lonely.safetensors"
    save_file({"a": torch.ones(1)}, lonely)
    for path, said in (
        (tmp_path / "none.safetensors", "There is no checkpoint"),
        (tmp_path / "model.ckpt", "no .safetensors file"),
        (broken, "cannot be read as safetensors"),
        (lonely, "No config"),
    ):
        with pytest.raises(UnsupportedModelError, match=said):
            load_checkpoint(path, "cpu")
    broken_yaml = rewritten(checkpoint, tmp_path, lambda tensors: None)
    broken_yaml.with_suffix(".yaml").write_text("model: [", encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="cannot be read as yaml"):
        load_checkpoint(broken_yaml, "cpu")


@pytest.mark.parametrize(("device", "half"), [("nonsense", False), ("meta", False), ("cuda:99", False), ("cpu", True)])
def test_a_device_that_is_not_there_is_refused(checkpoint, device, half):
    with pytest.raises(SettingsError, match="devic"):
        load_checkpoint(checkpoint, device, half)


def test_latents_are_unscaled_before_decoding(model):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = (model.autoencoder.decode(latents / 0.18215) + 1) / 2
    torch.testing.assert_close(model.decode(latents), expected.clamp(0, 1), rtol=1e-4, atol=1e-4)
    assert model.decode(latents).std() > 0
