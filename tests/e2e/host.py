"""Starts and stops the WebUI under test, in a scratch data folder, on the CPU."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .client import Client, HttpError
from .model_files import write_model_files
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
    "sd_vae_encode_method",
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
    others: tuple[Path, ...] = ()

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
        others = filter(None, environment.get("MASACTRL_E2E_EXTENSIONS", "").split(os.pathsep))
        return cls(
            Path(checkout).absolute(),
            python.absolute(),
            checkpoint.absolute(),
            Path(controlnet).absolute() if controlnet else None,
            tuple(Path(other).absolute() for other in others),
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
        "https_proxy": "http://127.0.0.1:9",  # nobody there: what is not in the data folder fails at once, everywhere
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
    """Fill the data folder: extensions, models and a style."""
    shutil.copytree(Path(__file__).parent / "extension", data / "extensions" / "fault-injection")
    if paths.controlnet:
        shutil.copytree(paths.controlnet, data / "extensions" / "sd-webui-controlnet", symlinks=True)
    for other in paths.others:
        shutil.copytree(other, data / "extensions" / other.name, symlinks=True)
        (data / "ui-config.json").write_text("{}")  # from the second start on it is there, and NegPiP relies on that
    if extension is not None:
        target = data / "extensions" / extension
        target.mkdir()
        ignored = shutil.ignore_patterns("__pycache__")
        for part in (REPOSITORY / name for name in EXTENSION_PARTS):
            if part.is_dir():
                shutil.copytree(part, target / part.name, ignore=ignored)
            elif part.exists():
                shutil.copy(part, target)
    write_model_files(paths.checkpoint, data, is_forge(paths.checkout))
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
