# A CPU image of the command line: docker build -t monai-dpmm-ad . && docker run --rm -v "$PWD:/data" monai-dpmm-ad --help
FROM python:3.11-slim

# Not root: what a run writes to a mounted folder belongs to an ordinary user.
RUN useradd --create-home --uid 1000 reader
WORKDIR /opt/monai_dpmm_ad

# torch first and pinned, from the index of CPU builds: a plain install pulls gigabytes of CUDA.
COPY constraints.txt ./
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu --requirement torch.txt

COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY monai_dpmm_ad monai_dpmm_ad
COPY bundles bundles
RUN pip install --no-cache-dir --constraint constraints.txt '.[report,dicom]'

USER 1000
WORKDIR /data
ENTRYPOINT ["monai-dpmm-ad"]
CMD ["--help"]
