"""daq-release: delivers a data product to its receivers."""
