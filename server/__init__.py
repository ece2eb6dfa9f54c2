"""HTTP: the outside of Facet. `app.py` puts everything together; `routes.py` lists what is served."""

VERSION = "0.1.0"
