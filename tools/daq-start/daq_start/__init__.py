"""daq-start: submit a data acquisition and print its id."""
