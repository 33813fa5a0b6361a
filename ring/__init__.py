"""Consistent-hash rings: builder, ring file, placement, membership."""
