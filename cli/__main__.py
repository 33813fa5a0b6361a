"""`python -m cli`, which is what ./holdfast runs."""
from cli.main import main

raise SystemExit(main())
