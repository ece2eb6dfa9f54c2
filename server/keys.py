"""Where handlers find what the composition root has put together."""

from aiohttp import web

from server.bodies import Bodies
from server.config import Settings
from server.jobs import Jobs
from server.links import Links
from server.loop_monitor import LoopMonitor
from server.machine import Machine
from server.metrics import Metrics
from server.previews import Previews
from server.pricer import Pricer
from server.readiness import Readiness
from server.siblings import Siblings
from server.uploads import Uploads
from storage.data_directory import DataDirectory
from storage.stack import Storage

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
STORAGE: web.AppKey[Storage] = web.AppKey("storage", Storage)
DIRECTORY: web.AppKey[DataDirectory] = web.AppKey("directory", DataDirectory)
PRICER: web.AppKey[Pricer] = web.AppKey("pricer", Pricer)
PREVIEWS: web.AppKey[Previews] = web.AppKey("previews", Previews)
BODIES: web.AppKey[Bodies] = web.AppKey("bodies", Bodies)
UPLOADS: web.AppKey[Uploads] = web.AppKey("uploads", Uploads)
READINESS: web.AppKey[Readiness] = web.AppKey("readiness", Readiness)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
SIBLINGS: web.AppKey[Siblings] = web.AppKey("siblings", Siblings)
JOBS: web.AppKey[Jobs] = web.AppKey("jobs", Jobs)
LOOP_MONITOR: web.AppKey[LoopMonitor] = web.AppKey("loop_monitor", LoopMonitor)
LINKS: web.AppKey[Links] = web.AppKey("links", Links)
MACHINE: web.AppKey[Machine] = web.AppKey("machine", Machine)
