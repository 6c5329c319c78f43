"""`python -m moelab`."""

from moelab.cli import main

if __name__ == "__main__":
    main()
