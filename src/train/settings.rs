//! How to fine-tune.

use serde::{Deserialize, Serialize};

/// The numbers of a fine-tuning run. The defaults are those of `octet train`; names are those of its flags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FineTuneSettings {
    /// Passes over the training texts, at most.
    pub epochs: usize,
    /// Texts per step.
    pub batch_size: usize,
    /// Of the encoder after warm-up; falls linearly to 0 at the last step.
    pub learning_rate: f64,
    /// Of the head, likewise.
    pub head_learning_rate: f64,
    /// Of learned scales, likewise: the largest share by which a step changes a scale.
    pub scale_learning_rate: f64,
    /// Share of all steps in which the learning rates rise from 0, 0..1.
    pub warmup: f64,
    /// AdamW's decoupled decay of matrices; biases, norms and embedding tables have none.
    pub weight_decay: f64,
    /// The gradient of all variables together is shortened to this length.
    pub clip: f64,
    /// Share of values that a step drops of embeddings, attention weights, residual branches and head, 0..1.
    pub dropout: f64,
    /// Share of the target that is spread over all classes (Szegedy et al. 2016), 0..1.
    pub label_smoothing: f64,
    /// How much the squared error of a value counts beside the classes' cross-entropy.
    pub value_weight: f64,
    /// How much a teacher's outputs count, 0..=1; the labels have the rest. Without a teacher it means nothing.
    pub teacher_weight: f64,
    /// How much the squared error of the teacher's hidden states counts beside its outputs.
    pub hidden_weight: f64,
    /// Share of the attention heads that are taken out, 0..1.
    pub prune_heads: f64,
    /// Share of the feed-forward neurons that are taken out, 0..1.
    pub prune_ffn: f64,
    /// Share of the weights of each of the encoder's matrices that become 0, 0..1.
    pub prune_magnitude: f64,
    /// Share of all steps after which pruning begins, 0..1.
    pub prune_start: f64,
    /// Share of all steps after which pruning is done, `prune_start`..1; the others are for recovery.
    pub prune_end: f64,
    /// How much the relations between tokens count beside the teacher's outputs.
    pub relation_weight: f64,
    /// Heads that vectors are cut into for relations; when 0, as many as the teacher's attention has, or the most of them
    /// that divide the student's width.
    pub relation_heads: usize,
    /// Where relations are compared, as a share of the depth of each, 0..=1; 1 is the last layer.
    pub relation_depth: f64,
    /// Epochs without a better dev score after which a run ends.
    pub patience: usize,
    /// Texts are cut to this many tokens while training.
    pub max_tokens: usize,
    /// Whether the factors of the encoder's products are rounded to bf16, which needs a CPU with AMX; forward not those of
    /// layers that are fake-quantized.
    pub bf16: bool,
    /// Of the head's initial weights, the order of texts and dropout.
    pub seed: u64,
}

impl Default for FineTuneSettings {
    fn default() -> Self {
        FineTuneSettings {
            epochs: 3,
            batch_size: 32,
            learning_rate: 5e-5,
            head_learning_rate: 5e-4,
            scale_learning_rate: 1e-3,
            warmup: 0.1,
            weight_decay: 0.01,
            clip: 1.0,
            dropout: 0.1,
            label_smoothing: 0.0,
            value_weight: 1.0,
            teacher_weight: 0.5,
            hidden_weight: 1.0,
            prune_heads: 0.0,
            prune_ffn: 0.0,
            prune_magnitude: 0.0,
            prune_start: 0.1,
            prune_end: 0.5,
            relation_weight: 0.0,
            relation_heads: 0,
            relation_depth: 1.0,
            patience: 2,
            max_tokens: 128,
            bf16: false,
            seed: 1,
        }
    }
}

impl FineTuneSettings {
    /// What is wrong with a setting, by the name of its flag.
    ///
    /// # Errors
    /// A sentence with what was found and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let at_least_one = [("epochs", self.epochs), ("batch-size", self.batch_size), ("patience", self.patience)];
        if let Some((name, _)) = at_least_one.into_iter().find(|(_, n)| *n == 0) {
            return Err(format!("--{name} is 0, must be at least 1"));
        }
        if self.max_tokens < 8 {
            return Err(format!("--max-tokens is {}, must be at least 8", self.max_tokens));
        }
        let positive = [
            ("learning-rate", self.learning_rate),
            ("head-learning-rate", self.head_learning_rate),
            ("scale-learning-rate", self.scale_learning_rate),
            ("clip", self.clip),
        ];
        if let Some((name, x)) = positive.into_iter().find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
            return Err(format!("--{name} is {x}, must be a number above 0"));
        }
        let not_negative = [
            ("weight-decay", self.weight_decay),
            ("value-weight", self.value_weight),
            ("hidden-weight", self.hidden_weight),
            ("relation-weight", self.relation_weight),
        ];
        if let Some((name, x)) = not_negative.into_iter().find(|(_, x)| !(x.is_finite() && *x >= 0.0)) {
            return Err(format!("--{name} is {x}, must be a number and at least 0"));
        }
        let parts = [("teacher-weight", self.teacher_weight), ("relation-depth", self.relation_depth)];
        if let Some((name, x)) = parts.into_iter().find(|(_, x)| !(0.0..=1.0).contains(x)) {
            return Err(format!("--{name} is {x}, must be between 0 and 1"));
        }
        if self.prune_start > self.prune_end {
            let (start, end) = (self.prune_start, self.prune_end);
            return Err(format!("--prune-start is {start} and --prune-end {end}, the start must not be after the end"));
        }
        let shares = [
            ("dropout", self.dropout),
            ("label-smoothing", self.label_smoothing),
            ("warmup", self.warmup),
            ("prune-heads", self.prune_heads),
            ("prune-ffn", self.prune_ffn),
            ("prune-magnitude", self.prune_magnitude),
            ("prune-start", self.prune_start),
            ("prune-end", self.prune_end),
        ];
        match shares.into_iter().find(|(_, x)| !(0.0..1.0).contains(x)) {
            Some((name, x)) => Err(format!("--{name} is {x}, must be at least 0 and below 1")),
            None => Ok(()),
        }
    }

    /// What step number `step` of `steps` multiplies the learning rates by: linear warm-up, then linear decay to 0.
    pub fn schedule(&self, step: usize, steps: usize) -> f64 {
        let warm = self.warmup * steps as f64;
        let step = step as f64;
        if step < warm { (step + 1.0) / (warm + 1.0) } else { (steps as f64 - step) / (steps as f64 - warm).max(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_rises_falls_and_never_stands_still() {
        let settings = FineTuneSettings { warmup: 0.1, ..Default::default() };
        let rates: Vec<f64> = (0..100).map(|step| settings.schedule(step, 100)).collect();
        assert!(rates[..11].is_sorted() && rates[10] == 1.0 && rates[0] > 0.0, "{rates:?}");
        assert!(rates[10..].iter().rev().is_sorted() && rates[99] > 0.0, "{rates:?}");
        let cold = FineTuneSettings { warmup: 0.0, ..Default::default() };
        assert_eq!(cold.schedule(0, 10), 1.0);
        assert!((cold.schedule(5, 10) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn bad_settings_are_named_like_their_flags() {
        let defaults = FineTuneSettings::default();
        assert_eq!(defaults.check(), Ok(()));
        let found = FineTuneSettings { learning_rate: f64::NAN, ..defaults.clone() }.check().unwrap_err();
        assert!(found.contains("--learning-rate is NaN"), "{found}");
        let found = FineTuneSettings { dropout: 1.0, ..defaults.clone() }.check().unwrap_err();
        assert!(found.contains("--dropout is 1") && found.contains("below 1"), "{found}");
        let found = FineTuneSettings { prune_heads: 1.0, ..defaults.clone() }.check().unwrap_err();
        assert!(found.contains("--prune-heads is 1") && found.contains("below 1"), "{found}");
        let found = FineTuneSettings { prune_start: 0.6, ..defaults.clone() }.check().unwrap_err();
        assert!(found.contains("--prune-start is 0.6 and --prune-end 0.5"), "{found}");
        let found = FineTuneSettings { epochs: 0, ..defaults }.check().unwrap_err();
        assert!(found.contains("--epochs is 0"), "{found}");
    }
}
