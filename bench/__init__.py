"""What `holdfast bench` runs: load on a running system, checks of what it stored, its CPU and memory, and two commits compared."""
