"""daq-status: lists, explains, follows and waits for jobs; it only reads the spool."""
