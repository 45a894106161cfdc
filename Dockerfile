# Packhorse with everything a fleet needs: the same image runs Ray's head, the workers and the gateway.
#
#     docker build -t packhorse .
#     docker build -t packhorse --build-arg MODELS=models --build-arg ISA=avx512 .    # with warm caches
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY cluster cluster
COPY engine engine
RUN python -m venv /opt/packhorse \
    && /opt/packhorse/bin/pip install --no-cache-dir ".[fleet]" \
    && /opt/packhorse/bin/python -m compileall -q /opt/packhorse/lib

FROM python:3.12-slim
# RayService probes its pods with wget.
RUN apt-get update && apt-get install --no-install-recommends -y wget && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home packhorse
COPY --from=build /opt/packhorse /opt/packhorse
ENV PATH=/opt/packhorse/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    PACKHORSE_CACHE_DIR=/home/packhorse/cache
COPY configs/fleet.yaml /etc/packhorse/fleet.yaml
COPY examples/digits/digits.onnx /opt/packhorse/examples/digits.onnx
USER packhorse
WORKDIR /home/packhorse
RUN mkdir -m 700 cache

# Compiled code is for one instruction set. Where that of the machines is known, models given at build
# time are compiled here, and a pod serves them without compiling anything. The example model always is.
ARG MODELS=examples/digits/digits.onnx
ARG ISA=
COPY --chown=packhorse ${MODELS} /tmp/models/
RUN if [ -n "$ISA" ]; then packhorse build /tmp/models --isa "$ISA" --cache-dir cache; fi; rm -rf /tmp/models

EXPOSE 8000 8265 8470
CMD ["packhorse", "serve", "/opt/packhorse/examples/digits.onnx", "--host", "0.0.0.0"]
