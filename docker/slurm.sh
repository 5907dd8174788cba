#!/usr/bin/env bash
# Two workers on a queue, for Slurm; they come back after a preemption, a lost node and the time limit:
#   sbatch --export=ALL,RUNNER_STORE=/shared/runs docker/slurm.sh
#   runner submit job.json --detach --store /shared/runs     from anywhere, before or while they run
# `runner` has to be on PATH on the nodes (activate its environment before sbatch), and the store reachable:
# a bucket, or a folder on a file system that all nodes share. A worker ends when nothing is left for it.
# Your own programs/ lie in a folder that all nodes see: --export=ALL,RUNNER_STORE=…,RUNNER_CODE=/shared/study
# Packages of your own are installed into that environment; `data.path` is a URL, or a file that all nodes see.
#SBATCH --job-name=runner
#SBATCH --array=1-2
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --gres=gpu:1
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runner-%A_%a.log
set -uo pipefail
: "${RUNNER_STORE:?which bucket or folder holds the jobs; see the top of this file}"
export RUNNER_STORE
export RUNNER_GRACE_SECONDS=120 # --signal above, for the worker to know
export RUNNER_NODE="slurm $SLURM_JOB_ID on ${SLURMD_NODENAME:-?}" # shown by `runner status JOB`

# Slurm signals this shell, or all of the job's processes, according to the occasion and the site. A second
# signal would end the worker with nothing saved, so none is passed on: it is asked through the bucket, which
# may be asked again, and saves within a heartbeat, a step and the upload.
asked=no
# shellcheck disable=SC2329 # the trap calls it
ask() {
  asked=yes again=yes
  runner work --drain "$(hostname):$worker"
}

runner work --until-empty &
worker=$!
trap ask TERM
code=0 again=yes
while [[ $again == yes ]]; do # a trap ends `wait` before the worker has ended
  again=no
  wait "$worker"
  result=$?
  [[ $result == 127 ]] || code=$result
done

# 75: stopped with all saved. Slurm itself requeues what it preempted, and a job that its user cancelled is
# to stay cancelled: neither is RUNNING here any more.
if [[ $code == 75 || $asked == yes ]]; then
  state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
  if [[ $state == RUNNING ]]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
# 4: what is left is not for this worker, or it lacks code or data, as its log says; 5: cancelled
case $code in 4 | 5) exit 0 ;; *) exit "$code" ;; esac
