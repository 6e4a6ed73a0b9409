//! What goes into the engine with the inputs, and what comes out.

use std::sync::Arc;
use std::time::Instant;

use crate::pipelines::Model;
use crate::telemetry::{RequestRecord, Timing};

/// What the engine must know about a request besides its inputs.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Follows the request; the engine notes model, task, stages and the reason of a refusal in it.
    pub record: RequestRecord,
    /// No answer is wanted after it, and no work is done for it.
    pub deadline: Option<Instant>,
    /// Under which the answer is remembered, so that labels can be sent for it; not remembered without one.
    pub id: Option<String>,
}

impl RequestContext {
    /// A request that arrives now and may take as long as it needs.
    pub fn new() -> Self {
        RequestContext { record: RequestRecord::new(Instant::now()), deadline: None, id: None }
    }
}

impl Default for RequestContext {
    fn default() -> Self {
        RequestContext::new()
    }
}

/// The outputs of one request.
#[derive(Clone)]
pub struct Answer<T> {
    /// One per input, in order.
    pub outputs: Vec<T>,
    /// The model that answered.
    pub model: Arc<Model>,
    /// Tokens computed for the request.
    pub tokens: usize,
    /// Sequences that were cut to fit the model.
    pub truncated: usize,
    /// Sequences in the largest batch that the request was part of, those of other requests included.
    pub batch_inputs: usize,
    /// Where the time went.
    pub timing: Timing,
}
