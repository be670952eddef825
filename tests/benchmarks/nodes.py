"""What so many nodes need for the videos in a folder: python nodes.py NODES FOLDER prints seconds.

Nodes are Ray's, of one CPU each, on this machine; the head has none. The start of the workers counts, that of
the nodes doesn't.
"""

import os
import secrets
import sys
import tempfile
import time

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def seconds(nodes: int, folder: str) -> float:
    """Of `analyze` on a new cluster."""
    os.environ.update(TOKEN)  # Ray reads it when it is imported
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
