# LSP on CPUs; how it is built and used: docs/guide/usage.md#in-a-container
FROM python:3.12-slim

# g++ compiles the kernels on the machine that they run on; the others render without a screen.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libegl1 libgl1 libopengl0 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY lsp lsp
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c constraints.txt '.[explorer]'

# In the folder that is mounted there, so that runs, saved skills and compiled kernels stay, and any
# user may run it.
ENV HOME=/work/.home
WORKDIR /work
ENTRYPOINT ["lsp"]
CMD ["--help"]
