"""`python -m train`: the command line."""

from train.host.signals import stopping

if __name__ == "__main__":
    with stopping:  # From here on: the imports alone take seconds.
        from train.cli.main import main

        main()
