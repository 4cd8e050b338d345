# syntax=docker/dockerfile:1

# The agent and its commands, as one static binary that runs as nobody in particular.
#   docker build --build-arg VERSION=$(git describe --tags --always) -t sluice .
# Tags move. For a build that can be repeated name the digests that you trust:
#   --build-arg GO_IMAGE=golang:1.26@sha256:... --build-arg BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot@sha256:...
ARG GO_IMAGE=golang:1.26
# Certificates, time zones, a user (65532) and /tmp; no shell.
ARG BASE_IMAGE=gcr.io/distroless/static-debian12:nonroot

FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG TARGETOS TARGETARCH
ARG VERSION=dev
WORKDIR /src
# The toolchain of the image, and no other that it might download.
ENV GOTOOLCHAIN=local GOFLAGS=-mod=readonly
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH VERSION=$VERSION .ci/build /out

FROM ${BASE_IMAGE}
COPY --from=build /out/ /
USER 65532:65532
ENTRYPOINT ["/sluice"]
CMD ["agent", "--config", "/etc/sluice/agent.yaml"]
