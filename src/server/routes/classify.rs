//! `POST /v1/classify`.

use axum::extract::State;
use axum::response::Response;

use crate::server::AppState;
use crate::server::error::{ApiError, OpenAiErrorBody};
use crate::server::schema::ListResponse;
use crate::server::schema::classify::{ClassifyItem, ClassifyRequest};
use crate::server::schema::feedback::CLASSIFY_PREFIX;

use super::{Admitted, Call};

/// Classify texts
///
/// One label with its score per input, and the scores of all classes.
#[utoipa::path(
    post,
    path = "/v1/classify",
    tag = "tasks",
    request_body = ClassifyRequest,
    responses(
        (status = 200, description = "One item per input, in order", body = ListResponse<ClassifyItem>),
        (status = "4XX", description = "The request cannot be answered", body = OpenAiErrorBody),
        (status = "5XX", description = "The server cannot answer now", body = OpenAiErrorBody),
    )
)]
pub(in crate::server) async fn classify(
    State(app): State<AppState>,
    call: Call<ClassifyRequest>,
) -> Result<Response, ApiError> {
    let Admitted { task, context, reply } = call.try_into_task()?.admit(&app)?;
    let answer = app.engine.classify(task.model.as_deref(), task.inputs, task.options, context).await?;
    Ok(reply.list::<ClassifyItem, _>(CLASSIFY_PREFIX, answer))
}
