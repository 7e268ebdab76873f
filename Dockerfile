# rollforge with the Wan family, for a GPU:
#   docker build -t rollforge .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" rollforge doctor --config configs/wan/rolling-sink-5min.yaml
# Not built yet: neither Docker nor a GPU was at hand where it was written.
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /opt/rollforge
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY rollforge rollforge
# PyPI's torch brings the libraries of CUDA; the host needs a driver and the NVIDIA Container Toolkit.
RUN pip install --constraint constraints.txt '.[wan]'
COPY plugins plugins
RUN pip install --no-deps plugins/*/

# Configs, weights and results are in the folder that is mounted here; caches too, as a user of any id may write there.
ENV HOME=/work
WORKDIR /work
ENTRYPOINT ["rollforge"]
CMD ["--help"]
