"""``python -m modelserve``."""

from modelserve.cli import main

raise SystemExit(main())
