//! Distillation: a network learns what another one says and thinks (Hinton et al. 2015; Jiao et al. 2020, TinyBERT; Wang
//! et al. 2021, MiniLMv2).

use candle_core::{D, Tensor};

use crate::architectures::{ProblemType, RaggedBatch};
use crate::nn::{Dropout, Relation};

use super::network::Outputs;
use super::{FineTuneSettings, Network, Task, TrainError};

/// Trained networks that are not trained any more; a student learns from each as much as from the others.
pub struct Teacher {
    networks: Vec<Network>,
}

impl Teacher {
    /// At least one network whose outputs are those of the student's task.
    pub fn new(networks: Vec<Network>) -> Self {
        assert!(!networks.is_empty(), "a teacher has at least one network");
        Teacher { networks }
    }

    /// Fails unless the vectors whose relations are compared can be cut into as many heads as was asked for.
    ///
    /// # Errors
    /// [`TrainError::Data`] with what is allowed.
    pub fn check(&self, student: &Network, settings: &FineTuneSettings) -> Result<(), TrainError> {
        let (heads, depth) = (settings.relation_heads, settings.relation_depth);
        // Pruning leaves the student any number of its heads.
        let of_student = match settings.prune_heads > 0.0 {
            true => student.head_dim(),
            false => student.projection_width(depth),
        };
        let common = self.networks.iter().map(|teacher| teacher.projection_width(depth)).fold(of_student, gcd);
        if settings.relation_weight == 0.0 || heads == 0 || common.is_multiple_of(heads) {
            return Ok(());
        }
        let allowed: Vec<_> = (1..=common).filter(|n| common.is_multiple_of(*n)).map(|n| n.to_string()).collect();
        let reason = format!(
            "--relation-heads is {heads}, must divide the vectors of student and teachers: one of {}, or 0 to choose",
            allowed.join(", ")
        );
        Err(TrainError::Data(reason))
    }

    /// How far the student `network`, whose outputs are `student`, is from the teacher's networks on a batch, on average.
    pub(super) fn loss(
        &self,
        network: &Network,
        student: &Outputs,
        batch: &RaggedBatch,
        task: &Task,
        settings: &FineTuneSettings,
    ) -> Result<Tensor, TrainError> {
        let of = |teacher| distance(teacher, (network, student), batch, task, settings);
        let distances = self.networks.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::stack(&distances, 0)?.mean_all()?)
    }
}

/// How far the student is from one teacher on a batch: cross-entropy of the teacher's class probabilities, or
/// squared error of its scores and numbers; plus, when both are as wide, the squared error of the hidden states,
/// each layer of the student beside the teacher's at the same share of the depth; plus, whatever the widths, the
/// divergence of the relations between tokens that queries, keys and values have at one share of the depth.
fn distance(
    network: &Network,
    (student_network, student): (&Network, &Outputs),
    batch: &RaggedBatch,
    task: &Task,
    settings: &FineTuneSettings,
) -> Result<Tensor, TrainError> {
    let teacher = network.forward(batch, Dropout::NONE)?;
    let (wanted, found) = (teacher.logits.detach(), &student.logits);
    let classes = if task.problem_type == ProblemType::SingleLabel { task.classes() } else { 0 };
    let numbers = task.outputs() - classes;
    let mut parts = Vec::new();
    if classes > 0 {
        let probabilities = candle_nn::ops::softmax(&wanted.narrow(1, 0, classes)?, D::Minus1)?;
        let logs = candle_nn::ops::log_softmax(&found.narrow(1, 0, classes)?, D::Minus1)?;
        parts.push((probabilities * logs)?.sum(D::Minus1)?.mean_all()?.neg()?);
    }
    if numbers > 0 {
        let error = (found.narrow(1, classes, numbers)? - wanted.narrow(1, classes, numbers)?)?;
        parts.push(error.sqr()?.mean_all()?);
    }
    let same_width = teacher.hidden[0].dim(1)? == student.hidden[0].dim(1)?;
    if same_width && settings.hidden_weight > 0.0 {
        let layers = student.hidden.len();
        let errors = student.hidden.iter().enumerate().map(|(index, found)| {
            let beside = (index * (teacher.hidden.len() - 1)).div_ceil(layers - 1);
            (found - teacher.hidden[beside].detach())?.sqr()?.mean_all()
        });
        let errors = errors.collect::<Result<Vec<_>, _>>()?;
        let weight = settings.hidden_weight / layers as f64;
        parts.push((Tensor::stack(&errors, 0)?.sum_all()? * weight)?);
    }
    if settings.relation_weight > 0.0 {
        let found = student_network.projections(settings.relation_depth, student)?;
        let wanted = network.projections(settings.relation_depth, &teacher)?;
        let heads = match settings.relation_heads {
            // Of the teacher's, as many as divide the student's width too.
            0 => gcd(wanted[0].dim(1)? / network.head_dim(), found[0].dim(1)?),
            heads => heads,
        };
        let relation = Relation { starts: batch.starts.as_slice().into(), heads };
        let apart = found.iter().zip(&wanted).map(|(found, wanted)| relation.clone().divergence(found, wanted));
        let apart = apart.collect::<Result<Vec<_>, _>>()?;
        parts.push((Tensor::stack(&apart, 0)?.mean_all()? * settings.relation_weight)?);
    }
    Ok(Tensor::stack(&parts, 0)?.sum_all()?)
}

/// The greatest common divisor.
fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
