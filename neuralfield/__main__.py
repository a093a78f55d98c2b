"""python -m neuralfield is nf."""

from neuralfield.cli.main import main

if __name__ == "__main__":
    main()
