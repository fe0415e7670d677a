"""Starts and stops the WebUI under test, in a scratch data folder, on the CPU."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy
import safetensors.numpy

from .client import Client, HttpError
from .control_models import (
    takes_controlnet,
    write_adapter,
    write_controlnet,
    write_ip_adapter,
    write_lllite,
    write_tensors,
)
from .wide_checkpoint import wide_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]
#: What an installed extension consists of.
EXTENSION_PARTS = ("scripts", "lib_masactrl", "javascript", "localizations", "style.css", "install.py", "metadata.ini")
BOOT_SECONDS = 600
#: The options that tests override in a request. The host puts an overridden option back only if its settings hold a
#: value for it (A1111 ``process_images``, ``stored_opts``), so each is written down, at its default, after the start.
OVERRIDDEN = [
    *("batch_cond_uncond", "pad_cond_uncond", "eta_noise_seed_delta", "img2img_color_correction", "return_grid"),
    *("grid_save", "token_merging_ratio", "hypertile_enable_unet", "hypertile_enable_unet_secondpass"),
    *("sd_unet", "img2img_extra_noise", "enable_quantization", "sd_vae", "CLIP_stop_at_last_layers"),
]
FLAGS = [
    *("--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-python-version-check", "--skip-version-check"),
    *("--no-download-sd-model", "--no-hashing", "--api", "--disable-console-progressbars"),
]
#: On the CPU, in float32.
A1111_FLAGS = ["--use-cpu", "all", "--no-half", "--no-half-vae", "--do-not-download-clip"]
FORGE_FLAGS = ["--always-cpu", "--all-in-fp32"]


@dataclass(frozen=True)
class HostPaths:
    """Where the WebUI, its interpreter and the checkpoint are. From the environment; see :meth:`from_environment`."""

    checkout: Path
    python: Path
    checkpoint: Path
    controlnet: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> HostPaths | str:
        """The paths, or the sentence that says what to set."""
        checkout = environment.get("MASACTRL_E2E_HOST", "")
        if not checkout:
            return (
                "NO REAL WEBUI TESTED: set MASACTRL_E2E_HOST to the folder of an AUTOMATIC1111 or Forge checkout "
                "(and MASACTRL_E2E_PYTHON to its interpreter, if that is not its own venv's)."
            )
        own = Path(checkout) / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        python = Path(environment.get("MASACTRL_E2E_PYTHON", "") or own)
        given = environment.get("MASACTRL_E2E_CHECKPOINT", "")
        for name, path, inside in (
            ("MASACTRL_E2E_HOST", Path(checkout), "launch.py"),
            ("MASACTRL_E2E_PYTHON", python, ""),
            ("MASACTRL_E2E_CHECKPOINT", Path(given), ""),
        ):
            if not (path / inside).exists():
                return f"NO REAL WEBUI TESTED: {path / inside} does not exist; set {name}."
        checkpoint = Path(given) if given else _own_checkpoint(Path(checkout))
        controlnet = environment.get("MASACTRL_E2E_CONTROLNET", "")
        return cls(
            Path(checkout).absolute(),
            python.absolute(),
            checkpoint.absolute(),
            Path(controlnet).absolute() if controlnet else None,
        )


def is_forge(checkout: Path) -> bool:
    """Whether this is one of the Forge family (Forge, reForge, Forge Classic), with flags and needs of its own."""
    return (checkout / "modules_forge").is_dir()


def _own_checkpoint(checkout: Path) -> Path:
    """The checkpoint of this repository, or of random weights for hosts that take no smaller one than SD 1.5."""
    return wide_checkpoint() if is_forge(checkout) else REPOSITORY / "demo" / "checkpoint" / "creatures.safetensors"


@contextmanager
def running(
    paths: HostPaths, data: Path, *, extension: str | None = "sd-webui-masactrl", flags: Sequence[str] = ()
) -> Iterator[Client]:
    """A WebUI with the fault extension and MasaCtrl in the folder ``extension``. Its log is ``data/server.log``."""
    prepare(paths, data, extension=extension)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    checkpoints = data / "checkpoints"
    places = ["--port", str(port), "--data-dir", str(data), "--ckpt-dir", str(checkpoints)]
    places += ["--ckpt", str(checkpoints / "first.safetensors")]
    if is_forge(paths.checkout):  # with a data folder elsewhere, it would not even serve its own scripts
        places += ["--gradio-allowed-path", str(paths.checkout)]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "CUDA_VISIBLE_DEVICES": "",
        "MPLCONFIGDIR": str(data / "mpl"),
        "PYTHONUNBUFFERED": "1",
        # Idle threads must not spin: on a busy machine they take the time of those that work.
        "OMP_WAIT_POLICY": "PASSIVE",
        # One thread: at these sizes more would only wait for each other, above all on a busy machine.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    with (data / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [
                str(paths.python),
                "launch.py",
                *FLAGS,
                *(FORGE_FLAGS if is_forge(paths.checkout) else A1111_FLAGS),
                *places,
                *flags,
            ],
            cwd=paths.checkout,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            client = Client(f"http://127.0.0.1:{port}")
            _wait_until_up(client, server, data / "server.log")
            options = client.get("/sdapi/v1/options")
            written_down = {name: options[name] for name in OVERRIDDEN if name in options}
            # A1111 1.6 writes images into its own folder unless told where to.
            folders = {f"outdir_{tab}_samples": str(data / "outputs" / tab) for tab in ("txt2img", "img2img")}
            client.post("/sdapi/v1/options", {**written_down, **folders})
            yield client
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            shutil.rmtree(checkpoints)  # pytest keeps the folders of its last runs, and these are large


def prepare(paths: HostPaths, data: Path, *, extension: str | None) -> None:
    """Fill the data folder: extensions, two checkpoints, a LoRA and a style."""
    shutil.copytree(Path(__file__).parent / "extension", data / "extensions" / "fault-injection")
    if paths.controlnet:
        shutil.copytree(paths.controlnet, data / "extensions" / "sd-webui-controlnet", symlinks=True)
    if extension is not None:
        target = data / "extensions" / extension
        target.mkdir()
        ignored = shutil.ignore_patterns("__pycache__")
        for part in (REPOSITORY / name for name in EXTENSION_PARTS):
            if part.is_dir():
                shutil.copytree(part, target / part.name, ignore=ignored)
            elif part.exists():
                shutil.copy(part, target)
    checkpoints = data / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "first.safetensors").symlink_to(paths.checkpoint)
    tensors = read_tensors(paths.checkpoint)
    _write_second_checkpoint(paths.checkpoint, checkpoints / "second.safetensors")
    config = paths.checkpoint.with_suffix(".yaml")
    for name in ("first.yaml", "second.yaml") if config.exists() else ():
        (checkpoints / name).write_text(_absolute_tokenizer(config), encoding="utf-8")
    _write_conditioned_checkpoint(paths.checkpoint, checkpoints / "inpainting.safetensors", 9)
    if config.exists():
        own = _absolute_tokenizer(config)
        (checkpoints / "inpainting.yaml").write_text(_inpainting_config(own), encoding="utf-8")
        _write_conditioned_checkpoint(paths.checkpoint, checkpoints / "pix2pix.safetensors", 8)
        (checkpoints / "pix2pix.yaml").write_text(_pix2pix_config(own), encoding="utf-8")
    embeddings = data / "embeddings"
    embeddings.mkdir()
    _write_embedding(tensors, embeddings / "embedded.safetensors")
    loras = data / "models" / "Lora"
    loras.mkdir(parents=True)
    _write_lora(tensors, loras / "nudge.safetensors")
    control_models = data / "models" / "ControlNet"
    if is_forge(paths.checkout) or takes_controlnet(tensors):
        write_controlnet(paths.checkpoint, control_models / "sketch-canny.safetensors")
        write_adapter(tensors, control_models / "t2i-adapter.safetensors")
    else:
        write_adapter(tensors, control_models / "sketch-canny.safetensors")
    write_ip_adapter(tensors, control_models / "ip-adapter.safetensors")
    write_lllite(tensors, control_models / "lllite.safetensors")
    (data / "styles.csv").write_text(
        'name,prompt,negative_prompt\nnight,"{prompt}, at night",daylight\n', encoding="utf-8-sig"
    )


def _wait_until_up(client: Client, server: subprocess.Popen[bytes], log: Path) -> None:
    """Bounded polling, until the API answers with the model loaded.

    Not one request before the host's log says that it has started: A1111 adds its middleware to a server that already
    listens, and fails over it ("Cannot add middleware after an application has started") if a request came first.
    """
    give_up = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < give_up and server.poll() is None:
        if b"Startup time" in log.read_bytes():
            try:
                client.get("/sdapi/v1/options")
                client.get("/fault/hooks")
                return
            except (OSError, HttpError):
                pass  # the model is still being loaded
        time.sleep(0.3)
    tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
    raise RuntimeError(f"The WebUI did not come up (exit code {server.poll()}). Its log ends:\n{tail}")


def _absolute_tokenizer(config: Path) -> str:
    """The checkpoint's config, with the text encoder's folder (``version``) absolute, so that it may be copied."""

    def absolute(found: re.Match[str]) -> str:
        folder = config.parent / found[2].strip("'\" ")
        return f"{found[1]}{json.dumps(str(folder))}" if folder.is_dir() else found[0]

    return re.sub(r"(?m)^(\s*version:\s*)(\S.*)$", absolute, config.read_text(encoding="utf-8"))


def _header(file: Path) -> tuple[dict[str, dict[str, object]], int]:
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0]
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def read_tensors(file: Path) -> dict[str, list[int]]:
    """The shapes of the tensors in a ``.safetensors`` file."""
    return {name: list(entry["shape"]) for name, entry in _header(file)[0].items()}  # type: ignore[call-overload]


def _write_second_checkpoint(first: Path, second: Path) -> None:
    """A copy whose U-Net answers differently: its last convolution is weaker."""
    header, start = _header(first)
    entry = header["model.diffusion_model.out.2.weight"]
    begin, end = (start + offset for offset in entry["data_offsets"])  # type: ignore[attr-defined]
    data = bytearray(first.read_bytes())
    kind = {"F16": numpy.float16, "F32": numpy.float32}[str(entry["dtype"])]
    data[begin:end] = (numpy.frombuffer(bytes(data[begin:end]), kind) * kind(0.8)).tobytes()
    second.write_bytes(data)


def _write_conditioned_checkpoint(first: Path, other: Path, channels: int) -> None:
    """A copy whose U-Net takes more channels than latents have, and gives nothing for them.

    Nine are those of SD 1.5 inpainting (latents, a mask and the masked picture), eight those of InstructPix2Pix
    (latents and the picture).
    """
    tensors = safetensors.numpy.load_file(first)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    weight = tensors[name]
    tensors[name] = numpy.concatenate([weight, weight[:, [0] * (channels - 4)] * 0], axis=1)
    safetensors.numpy.save_file(tensors, other)


def _inpainting_config(config: str) -> str:
    config = re.sub(r"conditioning_key: \S+", "conditioning_key: hybrid", config)
    config = config.replace("ddpm.LatentDiffusion", "ddpm.LatentInpaintDiffusion")
    config = config.replace("  params:\n", "  params:\n    finetune_keys: null\n", 1)
    return config.replace("in_channels: 4", "in_channels: 9", 1)


def _pix2pix_config(config: str) -> str:
    config = re.sub(r"conditioning_key: \S+", "conditioning_key: hybrid", config)
    config = re.sub(r"cond_stage_key: \S+", "cond_stage_key: edit", config)
    config = config.replace("ldm.models.diffusion.ddpm.", "modules.models.diffusion.ddpm_edit.")
    return config.replace("in_channels: 4", "in_channels: 8", 1)


def _write_embedding(shapes: dict[str, list[int]], file: Path) -> None:
    """A textual inversion embedding of three vectors."""
    width = next(shape for name, shape in shapes.items() if name.endswith("token_embedding.weight"))[1]
    vectors = numpy.random.default_rng(1).normal(size=(3, width)).astype(numpy.float32)
    write_tensors({"emb_params": vectors}, file)


def _write_lora(shapes: dict[str, list[int]], file: Path) -> None:
    """A rank-2 LoRA, in kohya's names, on the last self-attention layer's query and value; none for SDXL."""
    prefix = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.attn1."
    if f"{prefix}to_q.weight" not in shapes:  # SDXL has fewer blocks
        return
    random = numpy.random.default_rng(0)
    tensors: dict[str, numpy.ndarray] = {}
    for part in ("to_q", "to_v"):
        out, into = shapes[f"{prefix}{part}.weight"]
        name = f"lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_{part}"
        tensors[f"{name}.lora_up.weight"] = random.normal(size=(out, 2)).astype(numpy.float32)
        tensors[f"{name}.lora_down.weight"] = random.normal(size=(2, into)).astype(numpy.float32)
        tensors[f"{name}.alpha"] = numpy.array(2.0, numpy.float32)
    write_tensors(tensors, file)
