import re
from pathlib import Path

from setuptools import find_packages, setup

REPOSITORY = "https://github.com/tinycogvlm/tinycogvlm"
# These folders stand beside the package in a checkout and are installed inside it, so that the command finds them.
DATA = {"tinycogvlm.weights": "weights", "tinycogvlm.lessons": "lessons"}


def readme():
    """README.md with absolute links, which the page of a package index needs."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r'(src="|!\[[^\]]*\]\()(?!https?:)', rf"\1{REPOSITORY}/raw/main/", text)
    return re.sub(r"(?<!!)(\[[^\]]*\]\()(?!https?:|#)", rf"\1{REPOSITORY}/blob/main/", text)


setup(
    name="tinycogvlm",
    version="0.1.0",
    description="CogVLM, the vision-language model with a visual expert in every layer, from scratch in NumPy and CuPy: "
                "forward, backward, training, and CUDA kernels that run on any CPU",
    long_description=readme(),
    long_description_content_type="text/markdown",
    author="The tinycogvlm authors",
    url=REPOSITORY,
    project_urls={"Course": f"{REPOSITORY}/tree/main/lessons", "Changelog": f"{REPOSITORY}/blob/main/CHANGELOG.md",
                  "Issues": f"{REPOSITORY}/issues"},
    # The code and the weights; the pictograms, letters and photographs in world/
    license="Apache-2.0 AND OFL-1.1 AND MIT AND ISC AND CC-BY-4.0 AND CC-BY-3.0 AND CC0-1.0 AND Bitstream-Vera",
    license_files=["LICENSE", "tinycogvlm/world/atlas.LICENSE.txt", "tinycogvlm/world/hands/LICENCES.txt"],
    keywords=["CogVLM", "vision-language model", "transformer", "NumPy", "CUDA", "from scratch", "education"],
    classifiers=["Development Status :: 4 - Beta",
                 "Intended Audience :: Education",
                 "Intended Audience :: Science/Research",
                 "Operating System :: OS Independent",
                 "Programming Language :: Python :: 3",
                 "Programming Language :: Python :: 3.10",
                 "Programming Language :: Python :: 3.11",
                 "Programming Language :: Python :: 3.12",
                 "Programming Language :: Python :: 3.13",
                 "Topic :: Scientific/Engineering :: Artificial Intelligence",
                 "Typing :: Typed"],
    python_requires=">=3.10",
    install_requires=["numpy>=1.26", "pillow>=10.1", "tokenizers", "safetensors>=0.6.2", "ml_dtypes>=0.4.1", "tqdm"],
    extras_require={"cuda12x": ["cupy-cuda12x[ctk]>=14.1", "numpy>=2"],
                    "cuda13x": ["cupy-cuda13x[ctk]>=14.1", "numpy>=2"],
                    "plot": ["matplotlib"],
                    "video": ["av>=12"],                    # MP4 and the like; animated pictures need only Pillow
                    "real": ["gguf>=0.17", "jinja2>=3.1"],  # a real language model: .gguf files and chat templates
                    "serve": ["starlette>=0.40", "uvicorn>=0.30"],
                    "data": ["pyarrow>=15"],            # Parquet in and out of `tinycogvlm caption`
                    "ray": ["ray>=2.40"],               # tinycogvlm caption --engine ray
                    "audio": ["soundfile>=0.12", "soxr>=0.4"],  # sound files other than WAV, and other sample rates
                    # tinycogvlm learn book
                    "book": ["markdown-it-py>=3", "mdit-py-plugins>=0.4", "latex2mathml>=3.77", "pygments>=2.17"],
                    "test": ["pytest", "pytest-xdist"],
                    # NVIDIA's compiler and disassembler, which need no GPU: for tests/test_kernels_compile.py, whose
                    # limits of registers hold for just these versions. Linux and Windows.
                    "compile-test": ["nvidia-cuda-nvrtc==13.2.86", "nvidia-cuda-runtime==13.2.75",
                                     "nvidia-cuda-nvdisasm==13.2.86"]},
    packages=[*find_packages(include=["tinycogvlm", "tinycogvlm.*"]), *DATA],
    package_dir=DATA,
    package_data={**{name: ["**/*"] for name in DATA}, "tinycogvlm": ["py.typed"],
                  "tinycogvlm.serve": ["page.html"], "tinycogvlm.learn": ["book.*"],
                  "tinycogvlm.world": ["atlas.*", "hands/*"],
                  "tinycogvlm.kernels.library": ["*.cu", "*.cuh"], "tinycogvlm.kernels.runner": ["machine/**/*"]},
    exclude_package_data={name: ["**/__pycache__/*"] for name in DATA},
    entry_points={"console_scripts": ["tinycogvlm=tinycogvlm.cli.main:main"]},
)
