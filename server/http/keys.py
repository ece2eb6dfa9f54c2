"""Where handlers find what the composition root has put together."""

from aiohttp import web

from server.config import Settings
from storage.data_directory import DataDirectory
from storage.services.stack import Storage

SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)

STORAGE: web.AppKey[Storage] = web.AppKey("storage", Storage)

DIRECTORY: web.AppKey[DataDirectory] = web.AppKey("directory", DataDirectory)
