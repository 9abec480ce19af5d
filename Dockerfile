# docker build -t vb365-async-proxy .
# docker run -p 4443:4443 -v vb365:/var/lib/vb365-async-proxy -e VB365_PROXY_UPSTREAM__URL=https://vb365:4443 vb365-async-proxy

# The base image is pinned by its digest for reproducible builds. To get security updates, replace the digest:
#   docker buildx imagetools inspect python:3.13-slim
ARG PYTHON=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${PYTHON} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements-build.lock requirements-runtime.lock ./
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes --no-deps -r requirements-build.lock
RUN python -m venv /opt/proxy && /opt/proxy/bin/pip install --require-hashes --no-deps -r requirements-runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/proxy/bin/pip install --no-deps --no-index /wheels/*.whl

FROM ${PYTHON}
# Debian has a user of the name "proxy" already.
RUN groupadd --system --gid 10001 vb365 \
    && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/vb365-async-proxy --shell /usr/sbin/nologin vb365 \
    && install --directory --owner=vb365 --group=vb365 --mode=0700 /var/lib/vb365-async-proxy
COPY --from=build /opt/proxy /opt/proxy
ENV PATH=/opt/proxy/bin:$PATH PYTHONUNBUFFERED=1 VB365_PROXY_LOG__FORMAT=json
# By number: Kubernetes cannot tell that a name is not root (runAsNonRoot).
USER 10001
VOLUME /var/lib/vb365-async-proxy
EXPOSE 4443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=6s --start-period=10s CMD ["vb365-async-proxy", "healthcheck"]
ENTRYPOINT ["vb365-async-proxy"]
CMD ["serve"]
