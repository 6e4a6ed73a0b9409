//! Pruning while training: the attention heads and feed-forward neurons that matter least are taken out, a few at a time,
//! and training goes on with what is left; or single weights become 0.
//!
//! A head or a neuron has a gate in thought, a factor of 1 on what it gives. To first order the loss changes by
//! `|dL/dg g|` when the gate closes (Molchanov et al. 2017; Michel et al. 2019 for heads). What a gate scales is
//! multiplied by columns of the next matrix, so `dL/dg = sum(W dL/dW)` over these columns, and no gate needs to exist.
//!
//! What is taken out is gone: variables, moments and later steps are smaller. So training sees exactly the network that is
//! written in the end.

use candle_core::backprop::GradStore;

use super::network::Gates;
use super::{FineTuneSettings, Network};

/// How many times something is taken out between the start and the end of pruning.
const TIMES: f64 = 20.0;
/// How much of the importance of earlier steps stays when a step adds its own.
const MEMORY: f32 = 0.98;
/// Neurons are taken out by so many at a time: the width that products run well on.
pub(super) const NEURONS_AT_ONCE: usize = 32;

/// What is kept of each layer, by place, in rising order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub heads: Vec<usize>,
    pub neurons: Vec<usize>,
}

/// Running means of the importance of what a network's gates are on, in the order of [`Network::gates`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Importance(pub Vec<Vec<f32>>);

impl Importance {
    /// Nothing known yet.
    pub fn new(network: &Network) -> Self {
        Importance(network.gates().iter().map(|gates| vec![0.0; gates.count]).collect())
    }

    /// Takes the gradients of a step into account.
    ///
    /// # Errors
    /// When a matrix has no gradient.
    pub fn observe(&mut self, network: &Network, gradients: &GradStore) -> candle_core::Result<()> {
        for (means, gates) in self.0.iter_mut().zip(network.gates()) {
            for (mean, slope) in means.iter_mut().zip(slopes(network, &gates, gradients)?) {
                *mean = MEMORY * *mean + (1.0 - MEMORY) * slope.abs();
            }
        }
        Ok(())
    }

    /// What to keep so that no more heads and neurons are left than these, up to rounding. Heads and neurons are ranked
    /// over all layers, by their importance as a share of their layer's (its Euclidean length, as in Molchanov et al.).
    /// Each layer keeps at least one head and [`NEURONS_AT_ONCE`] neurons.
    pub fn keep(&self, heads: usize, neurons: usize) -> Vec<Kept> {
        let heads_of = || self.0.iter().step_by(2);
        let neurons_of = || self.0.iter().skip(1).step_by(2);
        let kept_heads = keep(heads_of(), 1, heads);
        let kept_neurons = keep(neurons_of(), NEURONS_AT_ONCE, neurons);
        let layers = kept_heads.into_iter().zip(kept_neurons);
        layers.map(|(heads, neurons)| Kept { heads, neurons }).collect()
    }

    /// Forgets what is gone.
    pub fn cut(&mut self, kept: &[Kept]) {
        let kept = kept.iter().flat_map(|layer| [&layer.heads, &layer.neurons]);
        for (means, kept) in self.0.iter_mut().zip(kept) {
            *means = kept.iter().map(|place| means[*place]).collect();
        }
    }
}

/// `dL/dg` of gates that are 1.
pub(super) fn slopes(network: &Network, gates: &Gates, gradients: &GradStore) -> candle_core::Result<Vec<f32>> {
    let variable = &network.variables()[gates.variable];
    let missing = || candle_core::Error::Msg(format!("{} has no gradient", variable.name));
    let gradient = gradients.get(variable.var.as_tensor()).ok_or_else(missing)?;
    let weights = variable.var.flatten_all()?.to_vec1::<f32>()?;
    let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
    let columns = gates.count * gates.width;
    let mut sums = vec![0f32; columns];
    for (w, g) in weights.chunks_exact(columns).zip(gradient.chunks_exact(columns)) {
        sums.iter_mut().zip(w).zip(g).for_each(|((sum, w), g)| *sum += w * g);
    }
    Ok(sums.chunks_exact(gates.width).map(|of_gate| of_gate.iter().sum()).collect())
}

/// Places to keep in each layer, in rising order: `total` of all, up to half of `at_once`, the most important ones, with
/// `at_once` in each layer at least.
fn keep<'a>(layers: impl Iterator<Item = &'a Vec<f32>>, at_once: usize, total: usize) -> Vec<Vec<usize>> {
    // The places of each layer from the most to the least important, and what the blocks at the end are worth.
    let ranked = layers.map(|importance| {
        let length = importance.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        let mut places: Vec<usize> = (0..importance.len()).collect();
        places.sort_by(|a, b| importance[*b].total_cmp(&importance[*a]).then(a.cmp(b)));
        let worth = |block: &[usize]| block.iter().map(|place| importance[*place] / length).sum::<f32>();
        let worths: Vec<f32> = places.chunks(at_once).map(worth).collect();
        (places, worths)
    });
    let mut ranked: Vec<(Vec<usize>, Vec<f32>)> = ranked.collect();
    loop {
        let left: usize = ranked.iter().map(|(places, _)| places.len()).sum();
        let ends = ranked.iter().enumerate().filter(|(_, (_, worths))| worths.len() > 1);
        let least = ends.min_by(|(_, (_, a)), (_, (_, b))| a[a.len() - 1].total_cmp(&b[b.len() - 1]));
        let Some((layer, _)) = least else { break };
        let (places, worths) = &mut ranked[layer];
        let block = places.len() - (worths.len() - 1) * at_once;
        if 2 * left.saturating_sub(total) < block.max(1) || left <= total {
            break;
        }
        places.truncate(places.len() - block);
        worths.pop();
    }
    let sorted = |(mut places, _): (Vec<usize>, Vec<f32>)| {
        places.sort_unstable();
        places
    };
    ranked.into_iter().map(sorted).collect()
}

/// Makes a share of the values 0, those nearest to it (Zhu & Gupta 2017).
pub(super) fn zero_smallest(values: &mut [f32], share: f64) {
    let count = (share * values.len() as f64).round() as usize;
    if count == 0 {
        return;
    }
    let mut magnitudes: Vec<f32> = values.iter().map(|v| v.abs()).collect();
    let (_, largest, _) = magnitudes.select_nth_unstable_by(count - 1, f32::total_cmp);
    let largest = *largest;
    values.iter_mut().filter(|v| v.abs() <= largest).for_each(|v| *v = 0.0);
}

impl FineTuneSettings {
    /// Whether anything is pruned.
    pub fn prunes(&self) -> bool {
        self.prunes_structures() || self.prune_magnitude > 0.0
    }

    /// Whether heads or neurons are taken out.
    pub fn prunes_structures(&self) -> bool {
        self.prune_heads > 0.0 || self.prune_ffn > 0.0
    }

    /// How much of the pruning is done before step number `step` of `steps`, 0..=1: `1 - (1 - t)^3` with `t` the share of the
    /// time between start and end, in twenty equal parts (Zhu & Gupta 2017).
    pub fn pruned(&self, step: usize, steps: usize) -> f64 {
        let at = |share: f64| ((share * steps as f64) as usize).min(steps.saturating_sub(1));
        let (start, end) = (at(self.prune_start), at(self.prune_end));
        if step >= end {
            return 1.0;
        }
        if step < start {
            return 0.0;
        }
        let passed = ((step - start) as f64 / (end - start) as f64 * TIMES).floor() / TIMES;
        1.0 - (1.0 - passed).powi(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pruning_is_quick_first_and_slow_later_and_is_done_at_its_end() {
        let settings = FineTuneSettings { prune_start: 0.1, prune_end: 0.5, ..Default::default() };
        let done: Vec<f64> = (0..1000).map(|step| settings.pruned(step, 1000)).collect();
        assert!(done.is_sorted() && done[100] == 0.0 && done[499] < 1.0 && done[500] == 1.0);
        // Half of the time is seven eighths of the work.
        assert_eq!(done[300], 0.875);
        let mut levels = done.clone();
        levels.dedup();
        assert_eq!(levels.len(), 21);
        // In a run of few steps too, the last step sees the whole of it.
        for steps in 1..10 {
            let late = FineTuneSettings { prune_end: 0.99, ..settings.clone() };
            assert_eq!(late.pruned(steps - 1, steps), 1.0, "{steps} steps");
        }
    }

    #[test]
    fn the_least_important_go_first_whatever_their_layer() {
        let layers = [vec![3.0, 1.0, 2.0], vec![0.1, 30.0, 0.2], vec![5.0]];
        // As shares of their layers: 0.80, 0.27, 0.53; 0.003, 1, 0.007; 1.
        assert_eq!(keep(layers.iter(), 1, 7), [vec![0, 1, 2], vec![0, 1, 2], vec![0]]);
        assert_eq!(keep(layers.iter(), 1, 5), [vec![0, 1, 2], vec![1], vec![0]]);
        assert_eq!(keep(layers.iter(), 1, 4), [vec![0, 2], vec![1], vec![0]]);
        assert_eq!(keep(layers.iter(), 1, 0), [vec![0], vec![1], vec![0]]);
    }

    #[test]
    fn neurons_go_in_blocks_and_an_odd_rest_goes_first() {
        let rising: Vec<f32> = (0..70).map(|i| i as f32).collect();
        let even = vec![1.0f32; 64];
        let kept = |total| keep([&rising, &even].into_iter(), 32, total).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(kept(134), [70, 64]);
        assert_eq!(kept(131), [64, 64]);
        assert_eq!(kept(100), [32, 64]);
        assert_eq!(kept(64), [32, 32]);
        assert_eq!(kept(0), [32, 32]);
        assert_eq!(keep([&rising].into_iter(), 32, 32)[0], (38..70).collect::<Vec<_>>());
    }

    #[test]
    fn the_smallest_weights_become_zero_and_zeros_count() {
        let mut values = [0.5, -0.1, 0.0, 2.0, -3.0, 0.2];
        zero_smallest(&mut values, 0.5);
        assert_eq!(values, [0.5, 0.0, 0.0, 2.0, -3.0, 0.0]);
        zero_smallest(&mut values, 0.5);
        assert_eq!(values, [0.5, 0.0, 0.0, 2.0, -3.0, 0.0]);
        zero_smallest(&mut values, 0.0);
        assert_eq!(values.iter().filter(|v| **v == 0.0).count(), 3);
    }
}
