# Your own programs/, models/ and datasets/ on top of runner's image, with what they need; from their folder:
#   docker build -t study --build-arg BASE=runner:gpu -f CLONE/docker/code.Dockerfile .
ARG BASE=runner:gpu
FROM ${BASE}
USER 0
COPY . /study
RUN if [ -f /study/requirements.txt ]; then pip install --no-cache-dir -r /study/requirements.txt; fi
USER 10001:0
# not /code, over which a folder may be mounted
ENV RUNNER_CODE=/study
