"""An asynchronous reverse proxy in front of Veeam Backup for Microsoft 365."""

__version__ = "0.1.0"
