# afr-clip serve: docker build -t afr-clip . ; for a GPU add
#   --build-arg BASE=nvidia/cuda:12.6.3-runtime-ubuntu24.04 --build-arg TORCH=cu126
ARG BASE=ubuntu:24.04

FROM ${BASE} AS build
ARG TORCH=cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/afr-clip
ENV PATH=/opt/afr-clip/bin:$PATH
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY conf conf
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --extra-index-url "https://download.pytorch.org/whl/${TORCH}" ".[serve,runtime]"

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home afr-clip
COPY --from=build /opt/afr-clip /opt/afr-clip
ENV PATH=/opt/afr-clip/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
# From outside its container the server is reached at another address, so it needs AFR_CLIP_TOKEN or --open.
ENTRYPOINT ["afr-clip", "serve", "--host", "0.0.0.0"]
CMD ["pocket"]
