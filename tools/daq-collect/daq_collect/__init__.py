"""daq-collect: fetches the inputs of a data product into the spool."""
