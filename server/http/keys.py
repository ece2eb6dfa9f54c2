"""Where handlers find what the composition root has put together."""

from aiohttp import web

from server.config import Settings
from server.http.body import Bodies
from server.jobs.running import Jobs
from server.links import Links
from server.observability.disk_check import Machine
from server.observability.loop_monitor import LoopMonitor
from server.observability.metrics import Metrics
from server.observability.readiness import Readiness
from server.observability.worker_metrics import Siblings
from server.prices.previews import Previews
from server.prices.quoting import Pricer
from server.uploads.receiving import Uploads
from storage.data_directory import DataDirectory
from storage.services.stack import Storage

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
