"""What the contract of :class:`daq_ctl.sources.Source` promises, as tests for any adapter.

``pytest --pyargs daq_ctl.conformance --daq-source=URI`` runs them; docs/sources.md explains how.
"""
