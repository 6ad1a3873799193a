"""Workers that other libraries' interpreters run by path; see ``worker_protocol.py``."""
