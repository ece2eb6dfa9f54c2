# Dependencies first: they change rarely, and this layer is then kept.
FROM python:3.11-slim
WORKDIR /facet
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY server ./server
COPY pricing ./pricing
COPY storage ./storage
# Sources belong to root: who serves cannot keep them compiled, and a start would compile them each time.
RUN python -m compileall -q server pricing storage
RUN useradd --system --uid 10001 --create-home facet && mkdir /data /machine-code && chown facet /data /machine-code
USER facet
# Compiled once here. With a read-only file system numba cannot use it, and every start compiles (10 s).
ENV NUMBA_CACHE_DIR=/machine-code
RUN python -m pricing.mesh.warm
ENV FACET_HOST=0.0.0.0 FACET_DATA_DIR=/data PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
ENTRYPOINT ["python", "-m", "server"]
CMD ["serve"]
