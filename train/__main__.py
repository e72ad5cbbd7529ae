"""`python -m train`: the command line."""

from train.stopping import stopping

if __name__ == "__main__":
    with stopping:  # From here on: the imports alone take seconds.
        from train.cli import main

        main()
