# The engine with every extra, from hash-pinned requirements, run by a user that owns nothing but its own folder.
FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/mt-copier
ENV PATH=/opt/mt-copier/bin:$PATH
COPY requirements/run.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY copier copier
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 copier
COPY --from=build /opt/mt-copier /opt/mt-copier
ENV PATH=/opt/mt-copier/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /home/copier
# What to ask is the settings' (`metrics`); docker-compose.yml does.
HEALTHCHECK NONE
ENTRYPOINT ["mt-copier"]
CMD ["demo"]
