//! A request as spans, for who collects traces: one for the request, under it what it went through.
//!
//! Spans are made from what is counted anyway: nothing is asked of the clock for them on the way of a
//! token, and without a tracer there is nothing at all.

use std::fmt;
use std::time::{Instant, SystemTime};

use axum::extract::{MatchedPath, Request};
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState, Tracer,
};
use opentelemetry::{Array, Context, KeyValue, SpanId, TraceFlags, TraceId, Value};

use crate::metrics::Course;
use crate::openai::sampling_fields::Sampling;
use crate::state::App;
use crate::trace_context::TraceContext;

/// A request of many choices or prompts shows so many of them.
const MAX_SEQUENCES: usize = 16;

/// The span of a request. Clones share it; it ends when told so.
#[derive(Clone)]
pub(crate) struct RequestTrace {
    app: App,
    context: Context,
    /// The same moment on both clocks.
    begun: (Instant, SystemTime),
}

/// How a generation was asked to sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    temperature: f32,
    top_p: f32,
    n: usize,
}

impl From<&Sampling> for Asked {
    fn from(sampling: &Sampling) -> Self {
        let Sampling { params, n, .. } = sampling;
        Self { temperature: params.temperature, top_p: params.top_p, n: *n }
    }
}

/// What a request to a model says of itself.
pub(crate) struct Generated<'a> {
    pub(crate) model: &'a str,
    /// `None` if vectors were asked for.
    pub(crate) asked: Option<Asked>,
    /// In the order of the choices, or of the prompts.
    pub(crate) courses: Vec<&'a Course>,
    pub(crate) prompt_tokens: usize,
}

impl RequestTrace {
    /// Begins, as a part of the caller's trace if it brings one.
    pub(crate) fn begin(
        app: &App,
        request: &Request,
        parent: Option<TraceContext>,
    ) -> Option<Self> {
        let tracer = app.tracer()?;
        let route = request.extensions().get::<MatchedPath>()?.as_str().to_owned();
        let method = request.method().as_str().to_owned();
        let begun = (Instant::now(), SystemTime::now());
        let span = SpanBuilder::from_name(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_start_time(begun.1)
            .with_attributes([
                KeyValue::new("http.request.method", method),
                KeyValue::new("http.route", route),
            ]);
        let parent = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(parent.into())
        });
        let span = tracer.build_with_context(span, &parent);
        let context = parent.with_span(span);
        Some(Self { app: app.clone(), context, begun })
    }

    /// Where in which trace it is, for the answer's header.
    pub(crate) fn place(&self) -> TraceContext {
        self.context.span().span_context().into()
    }

    /// What the client is told it is called.
    pub(crate) fn name(&self, request_id: &str) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("gen_ai.request.id", request_id.to_owned()));
    }

    /// The answer has ended.
    pub(crate) fn end(&self, status: u16) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            span.set_attribute(KeyValue::new("error.type", status.to_string()));
            span.set_status(Status::error(""));
        }
        span.end();
    }

    /// What the request asked of a model has ended: its attributes, and a span for each part of the way.
    pub(crate) fn generated(&self, generated: &Generated<'_>) {
        if !self.context.span().is_recording() {
            return;
        }
        self.describe(generated);
        let Some(first) = generated.courses.first() else { return };
        self.child("tokenize", first.arrived, first.queued, Vec::new());
        for (index, course) in generated.courses.iter().take(MAX_SEQUENCES).enumerate() {
            let tokens = |name, count: usize| KeyValue::new(name, count as i64);
            let choice = tokens("sconce.choice", index);
            let Some(started) = course.started else {
                self.child("queue", course.queued, Instant::now(), vec![choice]);
                continue;
            };
            self.child("queue", course.queued, started, vec![choice.clone()]);
            let cached = tokens("sconce.cached_tokens", course.cached_tokens);
            let Some(first) = course.first_token else { continue };
            self.child("prefill", started, first, vec![choice.clone(), cached]);
            let preemptions = tokens("sconce.preemptions", course.num_preemptions);
            let Some(last) = course.last_token else { continue };
            let generated = tokens("gen_ai.usage.output_tokens", course.num_tokens);
            self.child("decode", first, last, vec![choice, generated, preemptions]);
        }
    }

    fn describe(&self, generated: &Generated<'_>) {
        let Generated { model, asked, courses, prompt_tokens } = generated;
        let completion: usize = courses.iter().map(|course| course.num_tokens).sum();
        let int = |name, value: usize| KeyValue::new(name, value as i64);
        let reasons =
            courses.iter().filter_map(|course| course.finish_reason).map(Into::into).collect();
        let mut attributes = vec![
            KeyValue::new("gen_ai.response.model", (*model).to_owned()),
            int("gen_ai.usage.num_sequences", courses.len()),
            // vLLM's names of these two, and those of OpenTelemetry.
            int("gen_ai.usage.prompt_tokens", *prompt_tokens),
            int("gen_ai.usage.completion_tokens", completion),
            int("gen_ai.usage.input_tokens", *prompt_tokens),
            int("gen_ai.usage.output_tokens", completion),
        ];
        if let Some(Asked { temperature, top_p, n }) = *asked {
            let reasons = Value::Array(Array::String(reasons));
            attributes.extend([
                KeyValue::new("gen_ai.request.temperature", f64::from(temperature)),
                KeyValue::new("gen_ai.request.top_p", f64::from(top_p)),
                int("gen_ai.request.n", n),
                KeyValue::new("gen_ai.response.finish_reasons", reasons),
            ]);
            let max_tokens = courses.first().map(|first| first.max_tokens);
            attributes.extend(max_tokens.map(|most| int("gen_ai.request.max_tokens", most)));
        }
        if let Some(first) = courses.first() {
            let end = first.last_token.unwrap_or_else(Instant::now);
            for (name, time) in [
                ("time_in_queue", first.queue_time()),
                ("time_to_first_token", asked.and_then(|_| first.time_to_first_token())),
                ("e2e", Some(end.saturating_duration_since(first.arrived))),
                ("time_in_model_prefill", first.prefill_time()),
                ("time_in_model_decode", first.decode_time()),
                ("time_in_model_inference", first.inference_time()),
            ] {
                let Some(time) = time else { continue };
                let name = format!("gen_ai.latency.{name}");
                attributes.push(KeyValue::new(name, time.as_secs_f64()));
            }
        }
        self.context.span().set_attributes(attributes);
    }

    fn child(&self, name: &'static str, from: Instant, to: Instant, attributes: Vec<KeyValue>) {
        let Some(tracer) = self.app.tracer() else { return };
        let span = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(self.on_the_wall(from))
            .with_attributes(attributes);
        let mut span = tracer.build_with_context(span, &self.context);
        span.end_with_timestamp(self.on_the_wall(to));
    }

    fn on_the_wall(&self, at: Instant) -> SystemTime {
        let (instant, time) = self.begun;
        time + at.saturating_duration_since(instant)
    }
}

impl fmt::Debug for RequestTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestTrace").field("place", &self.place()).finish_non_exhaustive()
    }
}

impl From<TraceContext> for SpanContext {
    fn from(place: TraceContext) -> Self {
        let (trace, span) = (TraceId::from(place.trace_id), SpanId::from(place.span_id));
        Self::new(trace, span, TraceFlags::new(place.flags), true, TraceState::default())
    }
}

impl From<&SpanContext> for TraceContext {
    fn from(context: &SpanContext) -> Self {
        Self {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
        }
    }
}
