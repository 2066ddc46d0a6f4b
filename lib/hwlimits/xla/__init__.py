"""Matrix products, roofline, dispatch and copies through JAX and XLA: one code for CPU, GPU and TPU.

`python -m hwlimits.xla --out FOLDER` writes xla_<platform>_<device>.json there. JAX is the optional extra
`accelerators`, imported when something runs. A precision that the device lacks is an error, never another one.
"""

from hwlimits.xla.bandwidths import dispatch, host_to_device, roofline
from hwlimits.xla.engine import device
from hwlimits.xla.precisions import PRECISIONS, XlaError, padding_waste
from hwlimits.xla.products import Product, compare_products, matrix_product

__all__ = [
    "PRECISIONS", "Product", "XlaError", "compare_products", "device", "dispatch", "host_to_device", "matrix_product",
    "padding_waste", "roofline",
]  # fmt: skip
