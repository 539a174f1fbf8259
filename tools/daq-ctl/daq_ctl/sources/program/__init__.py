"""Sources that are plain programs, ``exec:/path``: they speak in JSON lines, or only leave files.

``docs/programs.md`` is the user's page. Each program runs below a keeper, a process that outlives
``daq-ctl``; what a later daemon must know is in files of the source's directory.
"""
