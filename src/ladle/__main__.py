"""Entry point of ``python -m ladle``."""

from ladle.cli import main

if __name__ == "__main__":
    main()
