# syntax=docker/dockerfile:1
#
# The package with its command line and the example topologies, for a root file system that is read-only and a user that
# is nobody.  Your own topologies: FROM this image, COPY them to /app.

FROM python:3.13.12-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_INPUT=1
RUN python -m venv /opt/streamproc
WORKDIR /src
# What is depended on has a layer of its own, which stays while only our own code changes.
COPY pyproject.toml README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['cli'], sep='\n')" > /tmp/requirements.txt \
    && /opt/streamproc/bin/pip install --requirement /tmp/requirements.txt
COPY streamproc streamproc
RUN --mount=type=cache,target=/root/.cache/pip /opt/streamproc/bin/pip install --no-deps .

FROM python:3.13.12-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="streamproc" \
      org.opencontainers.image.description="Event-time stream processing for Python" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13.12-slim-bookworm"
# The only place to write to, for runs that keep a state file: mount a volume there.
RUN install --directory --mode=0700 --owner=10001 --group=10001 /var/lib/streamproc
COPY --from=build /opt/streamproc /opt/streamproc
WORKDIR /app
COPY topologies topologies
COPY deploy/load.py deploy/load.py
ENV PATH=/opt/streamproc/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    STREAMPROC_HTTP__HOST=0.0.0.0
USER 10001:10001
EXPOSE 9400
STOPSIGNAL SIGTERM
# Liveness: whether the worker moves, not whether its brokers are up.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=6 CMD ["streamproc", "healthcheck"]
ENTRYPOINT ["streamproc"]
