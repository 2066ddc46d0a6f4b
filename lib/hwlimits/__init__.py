"""hwlimits: how hardware limits shape AI models, predicted, measured and explained.

Importing the package loads neither TensorFlow nor numba; each module loads what it needs.

>>> import hwlimits
>>> hwlimits.__version__.count(".")
2
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("hwlimits")
except PackageNotFoundError:  # the source tree on the path, not installed
    __version__ = "0.0.0"
