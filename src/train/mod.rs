//! Training, on CPU, through candle's automatic differentiation.
//!
//! [`fine_tune`](fine_tune()) trains a whole encoder with a head; [`head`] trains a head alone on the pooled vectors of
//! a frozen encoder, which takes a minute. A run of the former goes
//!
//! [`Task`] and [`Dataset`] (what the outputs mean, tokens and targets) → [`Network`] (encoder and head as variables) →
//! [`fine_tune`](fine_tune()) (batches, loss, [`AdamW`](optimizer::AdamW), dev scores, checkpoints) → [`FineTuned`].
//!
//! Heads, neurons and weights can be taken out on the way (`prune`).
//!
//! Everything random is a function of the seed and of the step's number, so a run that is taken up again from a
//! checkpoint goes on with the same bits.

mod dataset;
mod error;
mod fine_tune;
pub mod head;
mod network;
mod objective;
pub mod optimizer;
mod prune;
mod settings;
mod state;
mod teacher;
#[cfg(test)]
mod tests;

pub use dataset::{Dataset, Task, ValueScale};
pub use error::TrainError;
pub use fine_tune::{Event, FineTuned, Lesson, fine_tune};
pub use network::{Network, NetworkOptions, check_encoder};
pub use objective::DevScores;
pub use settings::FineTuneSettings;
pub use state::{EpochRecord, History, StepRecord};
pub use teacher::Teacher;
