//! The temperature that makes a classifier's scores honest, fitted on labelled texts.

/// Temperatures that are tried. Beyond them a fit only says that the data are few, or all right, or all wrong.
const TEMPERATURES: (f64, f64) = (0.05, 20.0);

/// The temperature that minimizes the mean negative log likelihood of `softmax(logits / T)` (Guo et al. 2017), for
/// logits `[texts][classes]` and true classes.
pub fn softmax_temperature<'a>(logits: impl Iterator<Item = (&'a [f32], usize)> + Clone) -> f32 {
    fit(|inverse| {
        let one = |(row, truth): (&[f32], usize)| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|x| (f64::from(x - max) * inverse).exp()).sum();
            sum.ln() - f64::from(row[truth] - max) * inverse
        };
        logits.clone().map(one).sum()
    })
}

/// The same for `sigmoid(logits / T)` of several labels, `[texts][labels]`, beside whether each label is true.
pub fn sigmoid_temperature<'a>(logits: impl Iterator<Item = (&'a [f32], &'a [bool])> + Clone) -> f32 {
    fit(|inverse| {
        let one = |(x, is_true): (&f32, &bool)| {
            // ln(1 + e^-z) of the logit towards the truth, without overflow.
            let z = f64::from(if *is_true { *x } else { -x }) * inverse;
            (-z.abs()).exp().ln_1p() + (-z).max(0.0)
        };
        logits.clone().flat_map(|(row, truth)| row.iter().zip(truth)).map(one).sum()
    })
}

/// The temperature with the smallest loss by golden-section search. The loss, a function of `1 / T`, is convex, so it
/// has one valley on every scale; the search runs over the logarithm.
fn fit(loss: impl Fn(f64) -> f64) -> f32 {
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-TEMPERATURES.1.ln(), -TEMPERATURES.0.ln());
    for _ in 0..60 {
        let (a, b) = (high - golden * (high - low), low + golden * (high - low));
        if loss(a.exp()) < loss(b.exp()) { high = b } else { low = a }
    }
    (-(low + high) / 2.0).exp() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_undoes_overconfidence() {
        // Right three times in four, at logits that claim far more: the honest margin is ln 3.
        let logits: Vec<Vec<f32>> = (0..400).map(|_| vec![2.0 * 3f32.ln(), 0.0]).collect();
        let classes = [1, 0, 0, 0].into_iter().cycle();
        let found = softmax_temperature(logits.iter().map(Vec::as_slice).zip(classes));
        assert!((found - 2.0).abs() < 1e-3, "{found}");
        let truths: Vec<bool> = [false, true, true, true].into_iter().cycle().take(400).collect();
        let one: Vec<f32> = vec![0.5 * 3f32.ln(); 400];
        let found = sigmoid_temperature(one.chunks(1).zip(truths.chunks(1)));
        assert!((found - 0.5).abs() < 1e-3, "{found}");
    }

    #[test]
    fn without_a_valley_the_temperature_stays_in_its_range() {
        let all_right = softmax_temperature([([5.0f32, 0.0].as_slice(), 0)].into_iter());
        let all_wrong = softmax_temperature([([5.0f32, 0.0].as_slice(), 1)].into_iter());
        assert!((all_right - 0.05).abs() < 1e-3 && (all_wrong - 20.0).abs() < 1e-3, "{all_right} {all_wrong}");
    }
}
