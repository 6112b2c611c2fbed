# The engine with every extra, from hash-pinned requirements, run by a user that owns nothing but its own folder.
FROM python:3.13-slim
WORKDIR /opt/mt-copier
COPY requirements/run.txt requirements/
RUN pip install --no-cache-dir --require-hashes -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY copier copier
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && useradd --create-home --uid 10001 copier
USER copier
WORKDIR /home/copier
ENTRYPOINT ["mt-copier"]
CMD ["demo"]
