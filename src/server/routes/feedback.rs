//! `POST /v1/feedback`.

use axum::Json;
use axum::extract::State;

use crate::server::AppState;
use crate::server::error::{ApiError, OpenAiErrorBody};
use crate::server::schema::feedback::{FeedbackRequest, FeedbackResponse};

use super::Call;

/// Say which label was right
///
/// Counts towards the live accuracy in `/metrics`. The first label of an input counts; the same one again changes nothing.
#[utoipa::path(
    post,
    path = "/v1/feedback",
    tag = "tasks",
    request_body = FeedbackRequest,
    responses(
        (status = 200, description = "The label was taken", body = FeedbackResponse),
        (status = 404, description = "No answer with this id is remembered", body = OpenAiErrorBody),
        (status = 409, description = "The input has another label already", body = OpenAiErrorBody),
        (status = "4XX", description = "The request cannot be answered", body = OpenAiErrorBody),
        (status = "5XX", description = "The server cannot answer now", body = OpenAiErrorBody),
    )
)]
pub(in crate::server) async fn feedback(
    State(app): State<AppState>,
    call: Call<FeedbackRequest>,
) -> Result<Json<FeedbackResponse>, ApiError> {
    let body = call.body;
    let index = body.index.unwrap_or(0);
    let taken = app.engine.feedback(body.answer_id()?, index, &body.label)?;
    Ok(Json(FeedbackResponse::new(index, body.label, taken)))
}
