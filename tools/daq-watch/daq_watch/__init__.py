"""daq-watch: chooses due jobs, starts the stage tools on them, limits, times out and reaps."""
