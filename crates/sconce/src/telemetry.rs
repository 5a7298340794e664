//! Traces by OTLP, as OpenTelemetry's environment variables say: over HTTP in protobuf, from a thread
//! of its own with a bounded queue. Without an endpoint there are none.

use crate::config::variable;
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the last spans may take when the process ends.
const FLUSH_TIME: Duration = Duration::from_secs(5);
/// What a collector may answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
const DEFAULT_TIMEOUT_MS: u64 = 10_000;
/// What OpenTelemetry's SDK knows; it would take others for its default.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// Sends spans until it is shut down.
#[derive(Debug)]
pub(crate) struct Telemetry {
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// `None` unless the environment names where to send traces.
    pub(crate) fn from_env() -> Result<Option<Self>> {
        if !is_wanted()? {
            return Ok(None);
        }
        check_protocol()?;
        check_sampler()?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new()?)
            .with_protocol(Protocol::HttpBinary)
            .build()
            .context("the OTEL_EXPORTER_OTLP_* variables")?;
        let mut resource = Resource::builder();
        if !is_named() {
            resource = resource.with_service_name("sconce");
        }
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        Ok(Some(Self { provider }))
    }

    pub(crate) fn tracer(&self) -> BoxedTracer {
        BoxedTracer::new(Box::new(self.provider.tracer("sconce")))
    }

    /// Sends what is left.
    pub(crate) fn shut_down(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIME) {
            tracing::warn!("the last spans could not be sent: {error}");
        }
    }
}

/// The variable of traces alone, or that of all signals.
fn of_traces(name: &str) -> Option<(String, String)> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES", "OTEL_EXPORTER_OTLP"];
    names.into_iter().map(|prefix| format!("{prefix}_{name}")).find_map(|name| {
        let value = variable(&name)?;
        Some((name, value))
    })
}

fn is_wanted() -> Result<bool> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    match variable("OTEL_TRACES_EXPORTER").as_deref() {
        Some("none") => Ok(false),
        None | Some("otlp") => Ok(of_traces("ENDPOINT").is_some()),
        Some(other) => bail!("OTEL_TRACES_EXPORTER is {other}: it can be otlp or none"),
    }
}

fn check_protocol() -> Result<()> {
    for name in ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"] {
        if let Some((name, _)) = of_traces(name) {
            bail!(
                "{name} is set: certificates of one's own are not supported; send to a collector beside \
                 the server over http, or to one that a public authority vouches for"
            );
        }
    }
    if let Some((name, value)) = of_traces("COMPRESSION").filter(|(_, value)| value != "none") {
        bail!("{name} is {value}: spans are sent as they are, none is supported alone");
    }
    match of_traces("PROTOCOL") {
        Some((name, value)) if value != "http/protobuf" => bail!(
            "{name} is {value}: only http/protobuf is supported, at the collector's HTTP port (4318 \
             usually, grpc has 4317)"
        ),
        _ => Ok(()),
    }
}

fn check_sampler() -> Result<()> {
    let Some(sampler) = variable("OTEL_TRACES_SAMPLER") else { return Ok(()) };
    if !SAMPLERS.contains(&sampler.as_str()) {
        bail!("OTEL_TRACES_SAMPLER is {sampler}: give one of {}", SAMPLERS.join(", "));
    }
    if sampler.ends_with("traceidratio") {
        let ratio = variable("OTEL_TRACES_SAMPLER_ARG").and_then(|ratio| ratio.parse().ok());
        if !ratio.is_some_and(|ratio: f64| (0.0..=1.0).contains(&ratio)) {
            bail!(
                "OTEL_TRACES_SAMPLER is {sampler}: OTEL_TRACES_SAMPLER_ARG must be its ratio, 0 to 1"
            );
        }
    }
    Ok(())
}

/// Whether the environment says what the service is called.
fn is_named() -> bool {
    let attributes = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let mut names = attributes.split(',').filter_map(|pair| pair.split_once('='));
    variable("OTEL_SERVICE_NAME").is_some() || names.any(|(name, _)| name.trim() == "service.name")
}

/// Posts spans; it blocks, on the exporter's own thread.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    /// Whether the last post failed: the log hears of the first failure and of the recovery.
    is_failing: AtomicBool,
}

impl Client {
    fn new() -> Result<Self> {
        let timeout = match of_traces("TIMEOUT") {
            None => DEFAULT_TIMEOUT_MS,
            Some((name, value)) => value
                .parse()
                .with_context(|| format!("{name} is {value}: give whole milliseconds"))?,
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_millis(timeout)))
            .build()
            .into();
        Ok(Self { agent, is_failing: AtomicBool::new(false) })
    }

    fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let (parts, body) = request.into_parts();
        let answer = self.agent.run(Request::from_parts(parts, &*body))?;
        let (parts, body) = answer.into_parts();
        let body = body.into_with_config().limit(MAX_ANSWER_BYTES).read_to_vec()?;
        Ok(Response::from_parts(parts, body.into()))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let to = request.uri().to_string();
        let answer = self.post(request);
        let fault = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(format!("{error:#}")),
        };
        let was_failing = self.is_failing.swap(fault.is_some(), Ordering::Relaxed);
        match fault {
            Some(fault) if !was_failing => tracing::warn!("traces cannot be sent to {to}: {fault}"),
            None if was_failing => tracing::info!("traces are sent to {to} again"),
            _ => {}
        }
        Ok(answer?)
    }
}
