//! One file per route. A handler parses, makes one call, and answers; what the routes share stands here.

pub(super) mod classify;
pub(super) mod docs;
pub(super) mod embeddings;
pub(super) mod feedback;
pub(super) mod health;
pub(super) mod metrics;
pub(super) mod models;
pub(super) mod predict;
pub(super) mod summarize;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use crate::engine::{Answer, EngineError, RequestContext};
use crate::telemetry::{RequestRecord, Stage};

use super::AppState;
use super::body::{self, ReadBody, TakenRoom};
use super::error::{ApiError, Kind};
use super::json;
use super::request::{RequestId, deadline};
use super::schema::{ListResponse, TaskRequest, Usage};

/// Bodies that are parsed on the async thread; a larger one, some milliseconds of work, goes to a blocking thread.
const INLINE_BODY_BYTES: usize = 256 * 1024;

/// A request whose JSON body has been read, and what came with it.
pub(super) struct Call<T> {
    body: T,
    id: RequestId,
    record: RequestRecord,
    headers: HeaderMap,
    /// Held until the answer is built: the texts stay in memory for as long.
    room: TakenRoom,
}

impl<T: DeserializeOwned + Send + 'static> FromRequest<AppState> for Call<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let settings = &app.settings.server;
        let is_late = app.is_refusing();
        let read = body::read(&parts.headers, body, settings, &app.body_room).await?;
        if is_late {
            // Refused only now: closing a connection with an unread body would reset it, answer and all.
            return Err(EngineError::Draining.into());
        }
        let (body, room) = parse(read, settings.strict).await?;
        let extensions = &mut parts.extensions;
        let id = extensions.remove::<RequestId>().expect("the context layer gives every request an id");
        let record = extensions.remove::<RequestRecord>().expect("the outermost layer follows every request");
        Ok(Call { body, id, record, headers: parts.headers, room })
    }
}

/// Body → request type, and the room that it goes on taking.
async fn parse<T: DeserializeOwned + Send + 'static>(read: ReadBody, strict: bool) -> Result<(T, TakenRoom), ApiError> {
    let is_large = read.bytes.len() > INLINE_BODY_BYTES;
    let parse = move || Ok((json::read(json::parse(&read.bytes)?, strict)?, read.room));
    if is_large {
        spawn_blocking(parse).await.map_err(|_| ApiError::backend("parsing a body panicked"))?
    } else {
        parse()
    }
}

impl<T> Call<T> {
    /// The call of a task, when the body becomes one by itself.
    fn try_into_task<I, O>(self) -> Result<Call<TaskRequest<I, O>>, ApiError>
    where
        TaskRequest<I, O>: TryFrom<T, Error = ApiError>,
    {
        let (call, ()) = self.try_split(|body| Ok((TaskRequest::try_from(body)?, ())))?;
        Ok(call)
    }

    /// The call of a task, and what the answer needs to know besides.
    fn try_split<I, O, R>(
        self,
        understand: impl FnOnce(T) -> Result<(TaskRequest<I, O>, R), ApiError>,
    ) -> Result<(Call<TaskRequest<I, O>>, R), ApiError> {
        let (body, rest) = understand(self.body)?;
        Ok((Call { body, id: self.id, record: self.record, headers: self.headers, room: self.room }, rest))
    }
}

/// A request that may go to the engine.
struct Admitted<I, O> {
    task: TaskRequest<I, O>,
    context: RequestContext,
    reply: Reply,
}

/// What the answer needs from the request.
struct Reply {
    id: RequestId,
    characters: usize,
    _room: TakenRoom,
}

impl<I, O> Call<TaskRequest<I, O>> {
    /// Checks what the server, not the model, limits.
    fn admit(self, app: &AppState) -> Result<Admitted<I, O>, ApiError> {
        let Call { body: task, id, record, headers, room } = self;
        let settings = &app.settings.server;
        let server_limit = Duration::from_millis(settings.request_timeout_ms);
        let deadline = deadline(record.arrived(), &headers, task.timeout_ms, server_limit)?;
        let (count, limit) = (task.inputs.len(), settings.max_inputs);
        if count > limit {
            let message = format!("found {count} inputs, at most {limit} fit in one request; send several requests");
            return Err(ApiError::new(Kind::TooManyInputs, message).param("input"));
        }
        let reply = Reply { id, characters: task.characters, _room: room };
        Ok(Admitted {
            task,
            context: RequestContext { record, deadline: Some(deadline), id: Some(reply.id.as_str().to_owned()) },
            reply,
        })
    }
}

impl Reply {
    /// The outer JSON of `/v1` tasks; `prefix` starts the id.
    fn list<I, T>(&self, prefix: &str, answer: Answer<T>) -> Response
    where
        I: From<(usize, T)> + Serialize + ToSchema,
    {
        let headers = self.headers(&answer);
        let body = ListResponse {
            id: format!("{prefix}-{}", self.id.as_str()),
            object: "list",
            created: unix_seconds(SystemTime::now()),
            model: answer.model.info.id.clone(),
            usage: Usage::of(answer.tokens),
            data: answer.outputs.into_iter().enumerate().map(I::from).collect::<Vec<I>>(),
        };
        (headers, Json(body)).into_response()
    }

    /// What text-embeddings-inference tells in headers (times in whole milliseconds), and our own. `server-timing`
    /// (W3C Server Timing) has each stage in milliseconds with three decimals.
    fn headers<T>(&self, answer: &Answer<T>) -> HeaderMap {
        let Answer { model, timing, tokens, truncated, batch_inputs, .. } = answer;
        let millis = |time: Duration| time.as_millis().to_string();
        let total = millis(timing.total());
        let stages = Stage::ALL.map(|s| format!("{};dur={:.3}", s.name(), timing.stage(s).as_secs_f64() * 1e3));
        let pairs = [
            ("server-timing", stages.join(", ")),
            ("x-compute-type", format!("cpu-{}", model.info.precision)),
            ("x-compute-time", total.clone()),
            ("x-compute-characters", self.characters.to_string()),
            ("x-compute-tokens", tokens.to_string()),
            ("x-total-time", total),
            ("x-tokenization-time", millis(timing.stage(Stage::Tokenize))),
            ("x-queue-time", millis(timing.stage(Stage::Queue))),
            ("x-inference-time", millis(timing.stage(Stage::Compute))),
            ("x-model", model.info.id.clone()),
            ("x-model-version", model.info.version.clone()),
            ("x-truncated", truncated.to_string()),
            ("x-batch-size", batch_inputs.to_string()),
        ];
        let header = |(name, value): (&'static str, String)| {
            Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
        };
        pairs.into_iter().filter_map(header).collect()
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
