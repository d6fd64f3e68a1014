# docker build -t mitochondria --build-arg DEVICE=cpu .      (or DEVICE=cuda; docs/installation.md)
FROM python:3.11-slim

ARG DEVICE=cpu

# torch.compile wants a C++ compiler
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /project
COPY requirements.txt requirements-extra.txt ./
# PyTorch first: its own index has the build without CUDA
RUN if [ "$DEVICE" = cpu ]; then INDEX="--index-url https://download.pytorch.org/whl/cpu"; fi \
    && pip install --no-cache-dir $INDEX "$(grep '^torch==' requirements.txt)" \
    && pip install --no-cache-dir -r requirements.txt -r requirements-extra.txt

COPY . .
ENTRYPOINT ["python"]
CMD ["scripts/demo.py", "--out", "/results"]
