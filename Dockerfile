# Octet in a container: docker build -t octet . && docker run -p 8080:8080 octet
# The stages: dependencies (a layer that only Cargo.toml and Cargo.lock change), the program, and the image that is
# shipped. tests/integration/container.rs reads the last stage, adds up what it copies, and runs it without Docker.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# Empty sources with the same targets, so that this layer holds compiled dependencies and nothing of Octet.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches tests/integration \
    && for main in src/main.rs benches/kernels.rs tests/integration/main.rs; do echo 'fn main() {}' > "$main"; done \
    && touch src/lib.rs
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --profile dist --locked --bin octet
COPY src src
ARG OCTET_COMMIT=unknown
# Cargo goes by modification times, and the copied files may be older than the empty ones were.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    find src -name '*.rs' -exec touch {} + \
    && OCTET_COMMIT="$OCTET_COMMIT" cargo build --profile dist --locked --bin octet \
    && install -D target/dist/octet /out/octet \
    && install -d /out/cache

# glibc, libgcc and CA certificates; no shell, no package manager. The user is 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG OCTET_COMMIT=unknown
LABEL org.opencontainers.image.title="octet" \
      org.opencontainers.image.description="HTTP inference server for int8-quantized NLP models on ordinary CPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$OCTET_COMMIT" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot"
WORKDIR /octet
COPY --from=build /out/octet /usr/local/bin/octet
# Where downloaded models go; a volume mounted here belongs to the user.
COPY --from=build --chown=65532:65532 /out/cache /var/cache/octet
COPY LICENSE /usr/share/doc/octet/LICENSE
COPY config/octet.toml config/octet.toml
COPY models/all-MiniLM-L6-v2 models/all-MiniLM-L6-v2
COPY models/sentiment models/sentiment
ENV OCTET_SERVER_HOST=0.0.0.0 \
    HF_HOME=/var/cache/octet
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/octet", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/octet"]
CMD ["serve"]
