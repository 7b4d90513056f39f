"""``python -m nexgate``."""

from nexgate.cli import main

if __name__ == "__main__":
    main()
