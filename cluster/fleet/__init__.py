"""A fleet: pinned workers as replicas of a Ray Serve deployment, found through a directory.

Ray owns the lifecycle of workers and never sees a tensor. `application` is the one module that
imports Ray; `worker` is what its replicas run, `directory` where workers announce themselves and
gateways find them, `configuration` the file that describes a fleet, `control` Serve's REST API, and
`local` starts and stops a whole fleet from one machine.
"""
