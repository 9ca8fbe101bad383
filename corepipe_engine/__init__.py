"""corepipe's engine: a core dump of a running process, streamed forward into a pipe. Standard library only.

Data flow: PID -> procfs -> regions -> policy -> plan -> freeze -> snapshot -> stream -> sink -> report.
A module imports only from its left.
"""

__version__ = "0.1.0"
