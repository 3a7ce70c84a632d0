"""``python -m cnr_iemn COMMAND ...`` is ``cnr-iemn COMMAND ...``."""

from cnr_iemn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
