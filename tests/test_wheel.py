"""What is installed from a wheel works in an empty folder, with the shipped weights and without a network."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from hdb.diffusion.sheet import save_image, to_pil
from hdb.faceworld.world import FaceWorld

ROOT = Path(__file__).parents[1]
FEW = ["finetuning.num_steps=2", "sampling.num_inference_steps=2", "prompts=[a [V] face]"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with hdb installed from its wheel and nothing else; the libraries are those of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    copy = folder / "source"  # setuptools leaves build/ beside what it builds
    copy.mkdir()
    for name in ("hdb", "experiments", "configs", "pyproject.toml", "LICENSE"):
        (copy / name).symlink_to(ROOT / name)
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, copy], check=True)
    (wheel,) = folder.glob("hdb-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


IN_A_ROW = """
import sys
from pathlib import Path
from experiments.shell.command import main
for line in Path("calls.txt").read_text().splitlines():
    sys.argv = ["hdb", *line.split("|")]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""


def hdb(site: Path, folder: Path, *calls: list[str]) -> str:
    """Runs what is installed in a folder, where nothing can be downloaded: the command, or several calls in a row."""
    (folder / "calls.txt").write_text("\n".join("|".join(words) for words in calls))
    program = [site / "bin" / "hdb", *calls[0]] if len(calls) == 1 else ["-c", IN_A_ROW]
    offline = {
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "http_proxy": "http://0.0.0.0:1",
        "OMP_NUM_THREADS": "1",
    }
    offline |= {"https_proxy": offline["http_proxy"], "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    libraries = sysconfig.get_paths()["purelib"]
    done = subprocess.run(
        [sys.executable, "-S", *program],
        cwd=folder,
        env=offline | {"PYTHONPATH": f"{site}:{libraries}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_wheel_personalizes_draws_and_exports_in_an_empty_folder(installed, tmp_path):
    world = FaceWorld(resolution=64)
    save_image(to_pil(world.render([(world.identity(0), world.view(0, 0))])[0]), tmp_path / "face.png")
    personalize = ["personalize", "face.png", "accelerator=cpu", *FEW]
    generate = ["generate", "face.safetensors", "a [V] face", "num_pictures=1", "accelerator=cpu", FEW[1]]
    said = hdb(installed, tmp_path, personalize, generate, ["export", "face.safetensors"])
    assert f"{installed}/hdb/faceworld/weights/hypernet (shipped)" in said
    assert (tmp_path / "face.safetensors").is_file() and (tmp_path / "face-pictures.png").is_file()
    assert (tmp_path / "outputs/generate/grid.png").is_file()
    assert (tmp_path / "face-lora.safetensors").is_file()
    assert "slots          192" in hdb(installed, tmp_path, ["inspect", "sd15-config"])
