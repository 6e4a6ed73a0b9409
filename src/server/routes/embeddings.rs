//! `POST /v1/embeddings`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::server::AppState;
use crate::server::error::{ApiError, OpenAiErrorBody};
use crate::server::schema::Usage;
use crate::server::schema::embeddings::{EmbeddingItem, EmbeddingsRequest, EmbeddingsResponse};

use super::{Admitted, Call};

/// Embed texts
///
/// One vector per input, as OpenAI has it.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "tasks",
    request_body = EmbeddingsRequest,
    responses(
        (status = 200, description = "One item per input, in order", body = EmbeddingsResponse),
        (status = "4XX", description = "The request cannot be answered", body = OpenAiErrorBody),
        (status = "5XX", description = "The server cannot answer now", body = OpenAiErrorBody),
    )
)]
pub(in crate::server) async fn embeddings(
    State(app): State<AppState>,
    call: Call<EmbeddingsRequest>,
) -> Result<Response, ApiError> {
    let (call, format) = call.try_split(|body| Ok(body.into_task()))?;
    let Admitted { task, context, reply } = call.admit(&app)?;
    let answer = app.engine.embed(task.model.as_deref(), task.inputs, task.options, context).await?;
    let headers = reply.headers(&answer);
    let body = EmbeddingsResponse {
        object: "list",
        model: answer.model.info.id.clone(),
        usage: Usage::of(answer.tokens),
        data: (0..).zip(answer.outputs).map(|(index, vector)| EmbeddingItem::new(index, vector, format)).collect(),
    };
    Ok((headers, Json(body)).into_response())
}
