//! Every way a request can fail, as one table: status, type and code in each dialect. Nothing else knows both an
//! inner error and its HTTP form.
//!
//! A handler returns an [`ApiError`]; it travels in the response's extensions to [`super::request::context`], the one
//! place that knows the request id and the dialect, and becomes the body there ([`ApiError::render`]).

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::{EngineError, FeedbackError};
use crate::pipelines::PipelineError;
use crate::telemetry::Rejection;

/// One row of the error table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not JSON: syntax, encoding, nesting, a repeated key.
    InvalidJson,
    /// A content type or encoding that is not JSON.
    UnsupportedMediaType,
    /// A field is missing, has the wrong type, or is out of range.
    InvalidValue,
    /// A header, or a limit sent with the request, that cannot be read.
    InvalidHeader,
    /// No input, or an input without text.
    Empty,
    /// More tokens than the model reads, and cutting was refused.
    ContextLength,
    /// More inputs than one request may have.
    TooManyInputs,
    /// A body over the limit.
    PayloadTooLarge,
    /// The model does not offer the task.
    UnsupportedTask,
    /// No model of that name.
    ModelNotFound,
    /// No answer of that id.
    AnswerNotFound,
    /// Another label was sent before.
    LabelConflict,
    /// No such route.
    NotFound,
    /// The route exists, the method does not.
    MethodNotAllowed,
    /// The key is missing or wrong.
    Unauthorized,
    /// The queue is full.
    Overloaded,
    /// The connection cap is reached.
    TooManyConnections,
    /// Shutting down.
    Draining,
    /// The deadline passed in the queue or during compute.
    DeadlineExceeded,
    /// The body came too slowly.
    RequestTimeout,
    /// Our fault: a panic, a value that is not finite.
    Backend,
}

/// What a [`Kind`] means over HTTP.
struct Row {
    /// Status on `/predict` and every other route outside `/v1`.
    native: u16,
    /// Status under `/v1`.
    v1: u16,
    /// `error_type` of the native body.
    error_type: &'static str,
    /// `error.code` under `/v1`.
    code: &'static str,
}

impl Kind {
    #[rustfmt::skip]
    fn row(self) -> Row {
        let row = |native, v1, error_type, code| Row { native, v1, error_type, code };
        match self {
            Kind::InvalidJson          => row(400, 400, "Validation", "invalid_json"),
            Kind::UnsupportedMediaType => row(415, 415, "UnsupportedMediaType", "unsupported_media_type"),
            Kind::InvalidValue         => row(422, 400, "Validation", "invalid_value"),
            Kind::InvalidHeader        => row(400, 400, "Validation", "invalid_value"),
            Kind::Empty                => row(400, 400, "Empty", "empty_input"),
            Kind::ContextLength        => row(422, 400, "Validation", "context_length_exceeded"),
            Kind::TooManyInputs        => row(422, 400, "Validation", "too_many_inputs"),
            Kind::PayloadTooLarge      => row(413, 413, "PayloadTooLarge", "payload_too_large"),
            Kind::UnsupportedTask      => row(422, 400, "UnsupportedTask", "unsupported_task"),
            Kind::ModelNotFound        => row(404, 404, "ModelNotFound", "model_not_found"),
            Kind::AnswerNotFound       => row(404, 404, "AnswerNotFound", "answer_not_found"),
            Kind::LabelConflict        => row(409, 409, "Conflict", "label_conflict"),
            Kind::NotFound             => row(404, 404, "NotFound", "not_found"),
            Kind::MethodNotAllowed     => row(405, 405, "NotFound", "method_not_allowed"),
            Kind::Unauthorized         => row(401, 401, "Unauthorized", "invalid_api_key"),
            Kind::Overloaded           => row(429, 429, "Overloaded", "rate_limit_exceeded"),
            Kind::TooManyConnections   => row(503, 503, "Unhealthy", "too_many_connections"),
            Kind::Draining             => row(503, 503, "Unhealthy", "draining"),
            Kind::DeadlineExceeded     => row(504, 504, "Timeout", "deadline_exceeded"),
            Kind::RequestTimeout       => row(408, 408, "Timeout", "request_timeout"),
            Kind::Backend              => row(500, 500, "Backend", "server_error"),
        }
    }

    /// The reason that metrics count for a request that fails so; none when the fault is ours.
    pub(crate) fn rejection(self) -> Option<Rejection> {
        match self {
            Kind::Overloaded => Some(Rejection::QueueFull),
            Kind::ContextLength => Some(Rejection::TooLong),
            Kind::TooManyInputs => Some(Rejection::TooMany),
            Kind::DeadlineExceeded => Some(Rejection::Deadline),
            Kind::Draining => Some(Rejection::Draining),
            Kind::Unauthorized => Some(Rejection::Auth),
            Kind::Backend | Kind::TooManyConnections => None,
            Kind::InvalidJson
            | Kind::UnsupportedMediaType
            | Kind::InvalidValue
            | Kind::InvalidHeader
            | Kind::Empty
            | Kind::PayloadTooLarge
            | Kind::UnsupportedTask
            | Kind::ModelNotFound
            | Kind::AnswerNotFound
            | Kind::LabelConflict
            | Kind::NotFound
            | Kind::MethodNotAllowed
            | Kind::RequestTimeout => Some(Rejection::Invalid),
        }
    }
}

/// Which JSON an error is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{"error", "error_type", "request_id", "index"?}`.
    Native,
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
}

impl Dialect {
    /// The dialect of a path.
    pub(crate) fn of(path: &str) -> Self {
        if path == "/v1" || path.starts_with("/v1/") { Dialect::OpenAi } else { Dialect::Native }
    }
}

/// A failed request. `message` is for the client and holds none of the client's text and no path of this machine.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    kind: Kind,
    message: String,
    param: Option<String>,
    index: Option<usize>,
    retry_after: Option<Duration>,
    /// For the log only.
    cause: Option<String>,
}

impl ApiError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        ApiError { kind, message: message.into(), param: None, index: None, retry_after: None, cause: None }
    }

    /// A field that is missing, has the wrong type, or is out of range.
    pub(crate) fn invalid(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        ApiError { param: Some(param.clone()), ..ApiError::new(Kind::InvalidValue, format!("{param}: {message}")) }
    }

    /// Our fault; `cause` goes to the log and not to the client.
    pub(crate) fn backend(cause: impl Into<String>) -> Self {
        let error =
            ApiError::new(Kind::Backend, "the server failed to compute an answer; this is not the request's fault");
        ApiError { cause: Some(cause.into()), ..error }
    }

    /// Names the field that is wrong.
    pub(crate) fn param(self, param: impl Into<String>) -> Self {
        ApiError { param: Some(param.into()), ..self }
    }

    /// Says which input of the list is the first bad one.
    pub(crate) fn index(self, index: Option<usize>) -> Self {
        ApiError { index, ..self }
    }

    /// Tells the client when to come back; sent in whole seconds, rounded up.
    pub(crate) fn retry_after(self, after: Duration) -> Self {
        ApiError { retry_after: Some(after), ..self }
    }

    /// Row of the table.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// What the log should say besides the message.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Status in a dialect.
    pub(crate) fn status(&self, dialect: Dialect) -> StatusCode {
        let row = self.kind.row();
        let status = if dialect == Dialect::OpenAi { row.v1 } else { row.native };
        StatusCode::from_u16(status).expect("the table holds valid statuses")
    }

    /// The answer the client gets.
    pub(crate) fn render(&self, dialect: Dialect, request_id: &str) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body(dialect, request_id)));
        *response.status_mut() = self.status(dialect);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_seconds() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.closes_connection() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Whether the client should not send another request on this connection.
    fn closes_connection(&self) -> bool {
        use Kind::{Draining, PayloadTooLarge, RequestTimeout, TooManyConnections};
        matches!(self.kind, Draining | TooManyConnections | RequestTimeout | PayloadTooLarge)
    }

    /// `Retry-After`: whole seconds, rounded up, at least 1.
    fn retry_seconds(&self) -> Option<u64> {
        self.retry_after.map(|d| (d.as_secs() + u64::from(d.subsec_nanos() > 0)).max(1))
    }

    /// The JSON of [`ApiError::render`].
    pub(crate) fn body(&self, dialect: Dialect, request_id: &str) -> Vec<u8> {
        let row = self.kind.row();
        let body = match dialect {
            Dialect::Native => serde_json::to_vec(&NativeErrorBody {
                error: self.message.clone(),
                error_type: row.error_type.to_owned(),
                request_id: request_id.to_owned(),
                index: self.index,
                estimated_time: self.retry_seconds().filter(|_| row.native == 503),
            }),
            Dialect::OpenAi => serde_json::to_vec(&OpenAiErrorBody {
                error: OpenAiError {
                    message: self.message.clone(),
                    r#type: openai_type(row.v1).to_owned(),
                    param: self.param.clone(),
                    code: row.code.to_owned(),
                },
            }),
        };
        body.expect("an error body is plain strings and integers")
    }
}

/// `error.type` as OpenAI groups it.
fn openai_type(status: u16) -> &'static str {
    match status {
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

impl IntoResponse for ApiError {
    /// A marked response without a body; [`super::request::context`] writes the body.
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status(Dialect::Native);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<PipelineError> for ApiError {
    fn from(error: PipelineError) -> Self {
        let message = error.to_string();
        match error {
            PipelineError::NoInput => ApiError::new(Kind::Empty, message).param("input"),
            PipelineError::Empty { index } => ApiError::at_input(Kind::Empty, message, index),
            PipelineError::TooLong { index, .. } => ApiError::at_input(Kind::ContextLength, message, index),
            PipelineError::TooManySentences { index, .. } => ApiError::at_input(Kind::ContextLength, message, index),
            PipelineError::InvalidOption { param, message } => ApiError::invalid(param, message),
            PipelineError::Unwanted => ApiError::from(EngineError::Deadline),
            PipelineError::Tokenizer { index, .. } | PipelineError::NotFinite { index } => {
                ApiError::backend(message).index(Some(index))
            }
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded { retry_after } => {
                ApiError::new(Kind::Overloaded, "the queue is full; try again later").retry_after(retry_after)
            }
            EngineError::Draining => {
                ApiError::new(Kind::Draining, "the server is shutting down; send the request again")
                    .retry_after(Duration::from_secs(1))
            }
            EngineError::Deadline => {
                ApiError::new(Kind::DeadlineExceeded, "the deadline passed before the answer was ready")
            }
            EngineError::ModelNotFound { known, .. } => {
                let message = format!("no such model; this server has: {}", known.join(", "));
                ApiError::new(Kind::ModelNotFound, message).param("model")
            }
            EngineError::UnsupportedTask { model, task, offered } => {
                let offered: Vec<&str> = offered.into_iter().map(|task| task.name()).collect();
                let message = match model {
                    Some(_) => format!("the model does not offer {}; it offers: {}", task.name(), offered.join(", ")),
                    None => format!("no model of this server offers {}", task.name()),
                };
                ApiError::new(Kind::UnsupportedTask, message).param("model")
            }
            EngineError::Input(error) => error.into(),
            EngineError::Backend { reason } => ApiError::backend(reason),
        }
    }
}

impl From<FeedbackError> for ApiError {
    fn from(error: FeedbackError) -> Self {
        let message = error.to_string();
        match error {
            FeedbackError::UnknownAnswer { .. } => ApiError::new(Kind::AnswerNotFound, message).param("id"),
            FeedbackError::Index { .. } => ApiError::invalid("index", message),
            FeedbackError::Label { .. } => ApiError::invalid("label", message),
            FeedbackError::Conflict => ApiError::new(Kind::LabelConflict, message).param("label"),
        }
    }
}

impl ApiError {
    fn at_input(kind: Kind, message: String, index: usize) -> Self {
        ApiError::new(kind, message).param(format!("input[{index}]")).index(Some(index))
    }
}

/// Error body of `/predict` and every route outside `/v1`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct NativeErrorBody {
    /// What was found, what is allowed, what to do.
    pub error: String,
    /// Class of the error.
    #[schema(example = "Validation")]
    pub error_type: String,
    /// Same as the `X-Request-Id` header.
    pub request_id: String,
    /// First bad input of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// With 503: seconds after which to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_time: Option<u64>,
}

/// Error body of every route under `/v1`, as OpenAI's.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct OpenAiErrorBody {
    /// The error.
    pub error: OpenAiError,
}

/// The error itself.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct OpenAiError {
    /// What was found, what is allowed, what to do.
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[schema(example = "invalid_request_error")]
    pub r#type: String,
    /// The field at fault, such as `top_k` or `input[3]`.
    pub param: Option<String>,
    /// One word per kind of error.
    #[schema(example = "invalid_value")]
    pub code: String,
}
