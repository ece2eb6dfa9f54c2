"""Where handlers find what the composition root has put together."""

from aiohttp import web

from server.config import Settings
from server.links import Links
from server.metrics import Metrics
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
UPLOADS: web.AppKey[Uploads] = web.AppKey("uploads", Uploads)
READINESS: web.AppKey[Readiness] = web.AppKey("readiness", Readiness)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
SIBLINGS: web.AppKey[Siblings] = web.AppKey("siblings", Siblings)
LINKS: web.AppKey[Links] = web.AppKey("links", Links)
