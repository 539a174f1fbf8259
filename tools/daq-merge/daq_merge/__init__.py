"""Builds the data product: one FITS file from the files and keywords of all sources."""
