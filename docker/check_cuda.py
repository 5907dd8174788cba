"""Do all CUDA libraries of the nvidia wheels load? No GPU is needed to know.

`--folders` prints the folders that the dynamic linker has to know. Without it, each library is
loaded by its name alone, as TensorFlow does, after what `ldconfig` was told. Exit code 1 names
those that fail. A library that lacks nothing but the driver's own libcuda.so.1 is whole: the
NVIDIA runtime brings that when a container starts.
"""

import ctypes
import sys
import sysconfig
from pathlib import Path

DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1")


def folders() -> list[Path]:
    """Return the folders of shared libraries in the nvidia wheels."""
    return sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("*/lib"))


def main() -> int:
    """Print the folders, or load everything in them."""
    if "--folders" in sys.argv[1:]:
        print(*folders(), sep="\n")
        return 0 if folders() else 1
    names = sorted({path.name for folder in folders() for path in folder.glob("*.so*")})
    loaded, need_driver, broken = [], [], {}
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            if str(error).startswith(DRIVER):
                need_driver.append(name)
            else:
                broken[name] = str(error)
        else:
            loaded.append(name)
    print(f"{len(loaded)} CUDA libraries load: {' '.join(loaded)}")
    if need_driver:
        print(f"{len(need_driver)} more will with the driver: {' '.join(need_driver)}")
    for name, why in broken.items():
        print(f"BROKEN {name}: {why}", file=sys.stderr)
    return 1 if broken or not loaded else 0


if __name__ == "__main__":
    sys.exit(main())
