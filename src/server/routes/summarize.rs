//! `POST /v1/summarize`.

use axum::extract::State;
use axum::response::Response;

use crate::server::AppState;
use crate::server::error::{ApiError, OpenAiErrorBody};
use crate::server::schema::ListResponse;
use crate::server::schema::summarize::{SummarizeItem, SummarizeRequest};

use super::{Admitted, Call};

/// Summarize texts
///
/// The sentences that say most, with their places in the text.
#[utoipa::path(
    post,
    path = "/v1/summarize",
    tag = "tasks",
    request_body = SummarizeRequest,
    responses(
        (status = 200, description = "One item per input, in order", body = ListResponse<SummarizeItem>),
        (status = "4XX", description = "The request cannot be answered", body = OpenAiErrorBody),
        (status = "5XX", description = "The server cannot answer now", body = OpenAiErrorBody),
    )
)]
pub(in crate::server) async fn summarize(
    State(app): State<AppState>,
    call: Call<SummarizeRequest>,
) -> Result<Response, ApiError> {
    let Admitted { task, context, reply } = call.try_into_task()?.admit(&app)?;
    let answer = app.engine.summarize(task.model.as_deref(), task.inputs, task.options, context).await?;
    Ok(reply.list::<SummarizeItem, _>("sum", answer))
}
