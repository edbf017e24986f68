"""Run the command line from a checkout: python cli.py analyze model.safetensors."""

from spectra.cli import main

if __name__ == "__main__":
    main()
