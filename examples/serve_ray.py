"""The service of `serve_fastapi.py` on several replicas under Ray Serve. Not run by a test.

    pip install "dllmc[serve]" "ray[serve]"
    cd examples && DLLMC_ARTIFACT=/models/model.dllm serve run serve_ray:deployment

Each replica loads the artifact; on one machine they share its mapped weights.
"""

from __future__ import annotations

import os

from ray import serve
from serve_fastapi import create_app

CORES = int(os.environ.get("DLLMC_CORES", "2"))


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": CORES})
@serve.ingress(lambda: create_app(os.environ["DLLMC_ARTIFACT"]))
class Replica:
    """One replica; its app is made where it runs."""


deployment = Replica.bind()
