"""Turn video archives into emotion timelines.

Analyze videos, then query the timeline:

    import fer_batch

    fer_batch.analyze(["talks/"], "results")
    timeline = fer_batch.open_timeline("results")
    timeline.sql("SELECT emotion, count(*) FROM tracks GROUP BY emotion")

Analyze one video in this process:

    faces = fer_batch.analyze_video("talk.mp4")

`import fer_batch` is fast: `__init__.pyi` lists the public names, and each one imports its module when it is
first used.
"""

import sys

import lazy_loader

from fer_batch.import_path import RootFinder

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# PyTorch would load the driver of CUDA from the working directory, which may be untrusted.
sys.meta_path.insert(0, RootFinder("torch", always=False))
