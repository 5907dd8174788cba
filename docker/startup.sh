#!/usr/bin/env bash
# Makes a machine with an NVIDIA driver a worker, from now on and after each reboot. As root.
#   IMAGE     to run; from Artifact Registry or ECR with the machine's own account
#   STORE     the bucket, such as gs://bucket/runs
#   POWEROFF  "no": stay up when nothing is left to do (default: power off, so that nothing is paid for)
#   GPUS      options of `docker run` (default: --gpus=all; empty on a machine without a GPU)
# docker/README.md shows how it becomes a VM's start-up script.
set -euo pipefail
: "${IMAGE:?which image is to run}" "${STORE:?which bucket holds the jobs}"
POWEROFF=${POWEROFF:-yes}
GPUS=${GPUS---gpus=all}
UNITS=${UNITS:-/etc/systemd/system}
BIN=${BIN:-/usr/local/sbin}

if ! command -v docker > /dev/null; then
  apt-get update
  apt-get install -y docker.io
fi
if [[ $GPUS && ! -x $(command -v nvidia-ctk) ]]; then
  # as NVIDIA's manual of the container toolkit says; apt expands $(ARCH)
  curl -fsSL https://nvidia.github.io/libnvidia-container/gpgkey \
    | gpg --dearmor --yes -o /usr/share/keyrings/nvidia-container-toolkit.gpg
  # shellcheck disable=SC2016
  echo 'deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit.gpg]' \
    'https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /' \
    > /etc/apt/sources.list.d/nvidia-container-toolkit.list
  apt-get update
  apt-get install -y nvidia-container-toolkit
  nvidia-ctk runtime configure --runtime=docker
  systemctl restart docker
fi

# registries of the clouds take the machine's account; others need none, or `docker login` once
cat > "$BIN/runner-pull" <<'PULL'
#!/usr/bin/env bash
set -euo pipefail
host=${1%%/*}
case $host in
  *.pkg.dev) gcloud auth configure-docker --quiet "$host" ;;
  *.dkr.ecr.*.amazonaws.com)
    region=${host#*.dkr.ecr.}
    aws ecr get-login-password --region "${region%%.*}" \
      | docker login --username AWS --password-stdin "$host" ;;
esac
docker pull --quiet "$1"
PULL
chmod 755 "$BIN/runner-pull"

# The exit codes are runner's: 0 nothing is left, 1 to 5 what the same again won't mend; 75 (stopped, saved),
# 6 (storage), 137 (killed) and everything else are tried again. A stop of the machine reaches runner as
# SIGTERM through the docker command. The host's network, since the cloud's credentials and its notices of
# preemption come from the metadata server.
cat > "$UNITS/runner.service" <<UNIT
[Unit]
Description=runner: works on the jobs in $STORE until nothing is left
Wants=network-online.target
After=network-online.target docker.service
Requires=docker.service
StartLimitIntervalSec=0

[Service]
Environment=HOME=/root
ExecStartPre=-docker rm --force runner
ExecStartPre=-$BIN/runner-pull $IMAGE
ExecStart=docker run --rm --name=runner $GPUS --network=host --read-only --tmpfs=/tmp --cap-drop=ALL --security-opt=no-new-privileges --volume=runner-cache:/cache --env=RUNNER_STORE=$STORE --env=RUNNER_GRACE_SECONDS=120 $IMAGE resume
TimeoutStartSec=infinity
TimeoutStopSec=120
Restart=on-failure
RestartSec=10
RestartPreventExitStatus=1 2 3 4 5
$([[ $POWEROFF == no ]] || echo "ExecStopPost=/bin/sh -c 'case \$\$EXIT_STATUS in [0-5]) systemctl --no-block poweroff ;; esac'")

[Install]
WantedBy=multi-user.target
UNIT

systemctl daemon-reload
systemctl enable runner.service
systemctl start --no-block runner.service
