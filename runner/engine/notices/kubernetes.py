"""Kubernetes: SIGTERM, then a grace period, then SIGKILL.

A pod that is evicted, drained or deleted gets SIGTERM (after its preStop hook, whose time counts)
and is killed `terminationGracePeriodSeconds` later, 30 unless its spec says otherwise. The pod
cannot see that figure: the downward API has no field for it, and reading the pod's own spec takes
rights at the API server that pods don't have. So its spec says it a second time:

    terminationGracePeriodSeconds: 300
    containers: [{…, env: [{name: RUNNER_GRACE_SECONDS, value: "300"}]}]

Elsewhere the variable is good for anything that sends SIGTERM some time before it kills.

Source: kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle, …/downward-api.
"""

import os
from collections.abc import Mapping

from runner import environment

VARIABLE = "RUNNER_GRACE_SECONDS"
DEFAULT_SECONDS = 30.0  #: what Kubernetes gives to a pod whose spec doesn't say


def grace_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between SIGTERM and SIGKILL; None where nothing tells.

    Raises:
        SpecError: RUNNER_GRACE_SECONDS is no number of seconds.
    """
    known = DEFAULT_SECONDS if environ.get("KUBERNETES_SERVICE_HOST") else None
    return environment.seconds(VARIABLE, environ) or known
