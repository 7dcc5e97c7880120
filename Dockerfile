# An image with everything installed, by tools/setup_env.sh: see "In a container" in docs/install.md.
#
#   docker build -t cmt-aqr .                               for CPU
#   docker build -t cmt-aqr --build-arg DEVICE=cuda .       for GPUs, CUDA 12.6
ARG DEVICE=cpu

FROM python:3.11-slim-bookworm AS system
# g++ compiles mmcv-full here, and what torch compiles at run time.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

# What differs between the devices: which builds of torch and spconv, and whether mmcv-full is compiled for CUDA.
FROM system AS compiler-cpu
ENV TORCH_BUILD=cpu SPCONV=spconv

FROM system AS compiler-cuda
COPY --from=nvidia/cuda:12.6.3-devel-ubuntu22.04 /usr/local/cuda-12.6 /opt/cuda
ARG TORCH_CUDA_ARCH_LIST="7.5;8.0;8.6;8.9;9.0+PTX"
ENV TORCH_BUILD=cu126 SPCONV=spconv-cu126 CUDA_HOME=/opt/cuda FORCE_CUDA=1 \
    TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST}

# The environment depends on the pins and the script alone: a change of the code compiles nothing anew. The script ends
# with a check that imports the package, for which a stand-in serves here.
# hadolint ignore=DL3006
FROM compiler-${DEVICE} AS environment
WORKDIR /cmt-aqr
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY requirements.txt setup.py pyproject.toml ./
COPY tools/setup_env.sh tools/check_environment.py tools/command_line.py tools/
RUN grep -E '^torch(vision)?==' requirements.txt \
        | pip install --no-cache-dir --index-url "https://download.pytorch.org/whl/${TORCH_BUILD}" -r /dev/stdin \
    && grep -E "^${SPCONV}==" requirements.txt | pip install --no-cache-dir -r /dev/stdin
RUN mkdir -p projects/mmdet3d_plugin && touch README.md projects/__init__.py \
    && echo "__version__ = '0'" > projects/mmdet3d_plugin/__init__.py \
    && tools/setup_env.sh --active

# Python with its packages, without what compiled them, and the checkout; the script checks both together.
FROM system
WORKDIR /cmt-aqr
COPY --from=environment /usr/local /usr/local
COPY . .
RUN tools/setup_env.sh --active
CMD ["bash"]
