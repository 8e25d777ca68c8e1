# The `onnxsal` command in a container. `docker build -t onnxsal .` is for the CPU, `docker build -t onnxsal-cuda --target cuda .` for a card.
# Neither is built by the tests, which have no Docker.

# CUDA 12.x and cuDNN 9 are what ONNX Runtime's GPU build asks for; it brings neither.
FROM nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 AS cuda
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/onnxsal
COPY . /src
RUN /opt/onnxsal/bin/pip install --no-cache-dir '/src[evaluate]' && rm -rf /src
RUN useradd --create-home user
USER user
WORKDIR /data
ENTRYPOINT ["/opt/onnxsal/bin/onnxsal"]

FROM python:3.12-slim AS cpu
COPY . /src
# The package asks for the GPU build of ONNX Runtime on x86-64, which is large and of no use here; the CPU build has the same module.
RUN pip install --no-cache-dir '/src[evaluate]' \
    && if pip show -q onnxruntime-gpu; then pip uninstall -y onnxruntime-gpu && pip install --no-cache-dir onnxruntime; fi \
    && rm -rf /src
RUN useradd --create-home user
USER user
WORKDIR /data
ENTRYPOINT ["onnxsal"]
