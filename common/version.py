"""The version of this Holdfast: the one place, read by packaging and by `holdfast version`."""

VERSION = "0.3.0"
