"""``python -m adapter_codegen``: the same as the console script."""

from adapter_codegen.cli import main

if __name__ == "__main__":
    main()
