"""python -m hwlimits.cli: the command where it is not installed as `hwlimits`."""

from hwlimits.cli import main

if __name__ == "__main__":
    main()
