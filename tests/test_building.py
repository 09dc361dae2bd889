"""What the build decides before it compiles."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("nvcc") and shutil.which("cmake")), reason="no nvcc or no cmake")
@pytest.mark.skipif(not (ROOT / "CMakeLists.txt").is_file(), reason="not in the source tree")
def test_an_nvcc_that_does_not_know_the_gpu_stops_nobody(tmp_path: Path) -> None:
    """Unless CUDA was asked for."""
    unknown = "-DRCFAST_CUDA_TARGETS=80-real;19-real"
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), "-DRCFAST_MODULE=OFF", unknown]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "no CUDA kernels: this nvcc knows no compute_19" in said
    asked = subprocess.run([*command, "-DRCFAST_CUDA=ON"], check=False, capture_output=True, text=True)
    assert asked.returncode != 0
