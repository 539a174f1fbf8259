"""daq-ctl: the daemon that talks to live sources, and its client."""
