"""The gateway as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from api.gateway.inference import InferenceRoutes
from api.gateway.management import ManagementRoutes
from api.gateway.metadata import MetadataRoutes
from api.gateway.observer import RequestObserver
from api.gateway.openapi import INFER_EXAMPLE, RouteSpec, add_route, docs_page, document_bodies
from api.gateway.route import http_error
from api.gateway.state import Gateway, server_version
from api.metrics import render_metrics
from api.protocol import schemas
from api.settings import Settings
from cluster.catalog import CatalogProgress
from cluster.channel import Channel
from cluster.repository import Repository

MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"
STORED = "/v2/repository/models/{model}"


def create_app(
    settings: Settings,
    channel: Channel,
    repository: Repository,
    *,
    on_progress: CatalogProgress | None = None,
) -> FastAPI:
    """The application; its state is in `app.state.gateway`.

    Models load once the application has started; it answers meanwhile, as not ready.
    """
    gateway = Gateway(settings, channel, repository, on_progress)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gateway.start()
        yield
        await gateway.close()

    app = FastAPI(
        title="Packhorse",
        version=server_version(),
        description="Open Inference Protocol v2 with binary tensors, repository and statistics.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.gateway = gateway
    app.add_middleware(RequestObserver, access_log=settings.access_log)
    app.add_exception_handler(HTTPException, http_error)
    specs = [*_inference(gateway), *_metadata(gateway), *_management(gateway)]
    for spec in specs:
        add_route(app, spec)
    document_bodies(app, list(dict.fromkeys(spec.body for spec in specs if spec.body is not None)))
    _add_pages(app, gateway)
    return app


def _inference(gateway: Gateway) -> list[RouteSpec]:
    infer = InferenceRoutes(gateway).infer
    return [
        RouteSpec(
            "POST",
            f"{path}/infer",
            infer,
            "Run a model",
            "inference",
            schemas.InferenceResponse,
            body=schemas.InferenceRequest,
            example=INFER_EXAMPLE,
            errors=(400, 404, 413, 500, 501, 503, 504),
            binary=True,
        )
        for path in (MODEL, VERSION)
    ]


def _metadata(gateway: Gateway) -> list[RouteSpec]:
    routes = MetadataRoutes(gateway)
    specs = [
        RouteSpec("GET", "/v2/health/live", routes.live, "Is it alive", "health", schemas.Liveness),
        RouteSpec(
            "GET", "/v2/health/ready", routes.ready, "Is it ready", "health", schemas.Readiness
        ),
        RouteSpec("GET", "/v2", routes.server, "Server", "metadata", schemas.ServerMetadata),
        RouteSpec("GET", "/v2/", routes.server, "Server", "metadata", listed=False),
        RouteSpec(
            "GET",
            "/v2/models/stats",
            routes.statistics,
            "Statistics of all models",
            "statistics",
            schemas.ModelStatisticsList,
        ),
    ]
    for path in (MODEL, VERSION):
        missing = (404, 503)
        specs += [
            RouteSpec(
                "GET",
                path,
                routes.model,
                "Model",
                "metadata",
                schemas.ModelMetadata,
                errors=missing,
            ),
            RouteSpec(
                "GET",
                f"{path}/ready",
                routes.model_ready,
                "Is the model ready",
                "health",
                schemas.ModelReadiness,
                errors=missing,
            ),
            RouteSpec(
                "GET",
                f"{path}/config",
                routes.config,
                "Model configuration",
                "metadata",
                errors=missing,
            ),
            RouteSpec(
                "GET",
                f"{path}/stats",
                routes.statistics,
                "Statistics of a model",
                "statistics",
                schemas.ModelStatisticsList,
                errors=missing,
            ),
        ]
    return specs


def _management(gateway: Gateway) -> list[RouteSpec]:
    routes = ManagementRoutes(gateway)
    refused = (400, 401, 403, 404)
    return [
        RouteSpec(
            "POST",
            "/v2/repository/index",
            routes.index,
            "List models",
            "repository",
            schemas.IndexEntryBody,
            answer_list=True,
            body=schemas.IndexRequest,
            errors=(400,),
        ),
        RouteSpec(
            "POST",
            f"{STORED}/load",
            routes.load,
            "Load a model",
            "repository",
            body=schemas.ManagementRequest,
            errors=refused,
        ),
        RouteSpec(
            "POST",
            f"{STORED}/unload",
            routes.unload,
            "Unload a model",
            "repository",
            body=schemas.ManagementRequest,
            errors=refused,
        ),
    ]


def _add_pages(app: FastAPI, gateway: Gateway) -> None:
    """Pages outside the protocol: probe, metrics, documentation."""
    routes = MetadataRoutes(gateway)
    app.router.add_route("/-/healthz", routes.healthz, methods=["GET"], include_in_schema=False)
    if gateway.settings.metrics:

        async def metrics(request: Request) -> Response:
            body, media_type = render_metrics(gateway, request.headers.get("accept"))
            return Response(body, media_type=media_type)

        app.router.add_route("/metrics", metrics, methods=["GET"], include_in_schema=False)
    if gateway.settings.docs:
        app.router.add_route("/docs", docs_page, methods=["GET"], include_in_schema=False)
