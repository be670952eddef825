"""Measure `analyze` on a cluster: python nodes.py NODES FOLDER prints the seconds for the videos in FOLDER.

The nodes are Ray's, on this machine, with one CPU each; the head has none. The time includes the start of the
workers, but not that of the nodes.
"""

import os
import secrets
import sys
import tempfile
import time

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def seconds(nodes: int, folder: str) -> float:
    """Return the wall time of `analyze` on a new cluster."""
    os.environ.update(TOKEN)  # Ray reads them at import
    from ray.cluster_utils import Cluster

    from fer_batch.pipeline.analyze import analyze
    from fer_batch.runtime import ray_session

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        with ray_session(cluster.address), tempfile.TemporaryDirectory() as out:
            began = time.perf_counter()
            analyze([folder], f"{out}/run")
            return time.perf_counter() - began
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    print(seconds(int(sys.argv[1]), sys.argv[2]))
