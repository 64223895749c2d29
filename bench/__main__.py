"""`python -m bench`, which is also how torchrun starts it."""

from bench.cli.main import main

if __name__ == "__main__":
    main()
