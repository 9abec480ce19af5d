# docker build -t vb365-async-proxy .
# docker run -p 4443:4443 -v vb365:/var/lib/vb365-async-proxy -e VB365_PROXY_UPSTREAM__URL=https://vb365:4443 vb365-async-proxy

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/proxy
COPY constraints.txt ./
COPY pyproject.toml README.md LICENSE ./
COPY proxy ./proxy
RUN /opt/proxy/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt '.[cluster]'

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/vb365-async-proxy --shell /usr/sbin/nologin proxy \
    && install --directory --owner=proxy --group=proxy --mode=0700 /var/lib/vb365-async-proxy
COPY --from=build /opt/proxy /opt/proxy
ENV PATH=/opt/proxy/bin:$PATH PYTHONUNBUFFERED=1 VB365_PROXY_LOG__FORMAT=json
USER proxy
VOLUME /var/lib/vb365-async-proxy
EXPOSE 4443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=6s --start-period=10s CMD ["vb365-async-proxy", "healthcheck"]
ENTRYPOINT ["vb365-async-proxy"]
CMD ["serve"]
