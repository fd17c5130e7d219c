from pathlib import Path

from setuptools import find_packages, setup

# These folders stand beside the package in a checkout and are installed inside it, so that the command finds them.
DATA = {"tinycogvlm.weights": "weights", "tinycogvlm.lessons": "lessons"}

setup(
    name="tinycogvlm",
    version="0.1.0",
    description="CogVLM and CogVLM2 from scratch in NumPy and CuPy, forward and backward",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    install_requires=["numpy>=1.26", "pillow>=10.1", "tokenizers", "safetensors", "tqdm"],
    extras_require={"cuda12x": ["cupy-cuda12x[ctk]", "numpy>=2"],
                    "cuda13x": ["cupy-cuda13x[ctk]", "numpy>=2"],
                    "plot": ["matplotlib"],
                    "test": ["pytest", "pytest-xdist"],
                    # NVIDIA's compiler and disassembler, which need no GPU: for tests/test_kernels_compile.py, whose
                    # limits of registers hold for just these versions. Linux and Windows.
                    "compile-test": ["nvidia-cuda-nvrtc==13.2.86", "nvidia-cuda-runtime==13.2.75",
                                     "nvidia-cuda-nvdisasm==13.2.86"]},
    packages=[*find_packages(include=["tinycogvlm", "tinycogvlm.*"]), *DATA],
    package_dir=DATA,
    package_data={**{name: ["**/*"] for name in DATA}, "tinycogvlm.world": ["atlas.*"],
                  "tinycogvlm.kernels.library": ["*.cu", "*.cuh"], "tinycogvlm.kernels.runner": ["machine/*"]},
    exclude_package_data={name: ["**/__pycache__/*"] for name in DATA},
    entry_points={"console_scripts": ["tinycogvlm=tinycogvlm.cli.main:main"]},
)
