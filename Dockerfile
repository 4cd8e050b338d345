# syntax=docker/dockerfile:1

# The agent and its commands, as one static binary that runs as nobody in particular.
#   docker build --build-arg VERSION=$(git describe --tags --always) -t sluice .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags="-s -w -X main.version=$VERSION" -o /sluice ./cmd/sluice

# Certificates, time zones, a user (65532) and /tmp; no shell.
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /sluice /sluice
USER 65532:65532
ENTRYPOINT ["/sluice"]
CMD ["agent", "--config", "/etc/sluice/agent.yaml"]
