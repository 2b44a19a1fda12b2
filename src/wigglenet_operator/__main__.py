"""`python -m wigglenet_operator`, the same as the console script."""

from wigglenet_operator.cli import main

if __name__ == "__main__":
    main()
