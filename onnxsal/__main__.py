"""``python -m onnxsal`` is the ``onnxsal`` command."""

from onnxsal.cli import main

if __name__ == "__main__":
    main()
