"""What the daqspool tools share: the spool, its durable files, and the words they speak.

Arrows point downward only: ``fsops <- spool <- stage <- tool``. Nothing heavy is imported here.
"""

__version__ = "0.1.0"
