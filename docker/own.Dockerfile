# A package of your own on top of runner's image; from the folder that holds its pyproject.toml:
#   docker build -t runner:mine --build-arg BASE=runner:gpu -f CLONE/docker/own.Dockerfile .
ARG BASE=runner:gpu
FROM ${BASE}
USER 0
RUN --mount=type=bind,target=/src,rw pip install --no-cache-dir /src
USER 10001:0
