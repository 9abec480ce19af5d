"""An asynchronous reverse proxy in front of Veeam Backup for Microsoft 365 (VB365).

The packages, lowest layer first; each imports only from layers below it:

    core                                 rules: pure functions and values, no I/O
    ports, net, logs                     interfaces between packages; sockets and TLS; the log
    downstream, upstream                 connections of clients; connections to VB365
    stores, telemetry                    jobs and files on disk or shared; OpenTelemetry
    relay, jobs                          pass-through; exports that run as jobs
    api, rescue                          asynchronous exports; synchronous ones that run as jobs
    admin, webhooks                      /api, /metrics, the dashboard; notifications
    parts, app, workers, cli             the parts of a proxy, put together, started

Beside them: config (the settings), client (`export`, `jobs`) and simulator (a stand-in for VB365).
"""

__version__ = "0.1.0"
