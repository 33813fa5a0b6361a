"""The Swift door: Swift API v1 over the store of the gateway. `door.py` is its table of contents."""
