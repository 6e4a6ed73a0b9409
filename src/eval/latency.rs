//! How long one text alone takes, from text to answer.

use std::time::{Duration, Instant};

use super::metrics::quantile;

/// Texts that run before the clock counts.
const WARM_UP: usize = 5;

/// Times of single texts on one thread, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Half of the texts take no longer.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// All but one in a hundred.
    pub p99: f64,
    /// Texts that were timed.
    pub texts: usize,
}

/// A model: runs the text of an index.
pub type Run<'a, E> = Box<dyn FnMut(usize) -> Result<(), E> + 'a>;

/// Times texts `0..texts` through every model, one text at a time. The models take turns, another one first each time;
/// all end when `limit` has passed, so that each timed the same texts.
///
/// # Errors
/// The first one that a model gives.
pub fn measure<E>(
    models: &mut [Run<'_, E>],
    texts: usize,
    limit: Duration,
    mut progress: impl FnMut(usize),
) -> Result<Vec<Latency>, E> {
    let started = Instant::now();
    let mut times = vec![Vec::with_capacity(texts); models.len()];
    for index in 0..WARM_UP.min(texts) {
        models.iter_mut().try_for_each(|run| run(index))?;
    }
    for index in 0..texts {
        if index > 0 && started.elapsed() > limit {
            break;
        }
        for turn in 0..models.len() {
            let model = (index + turn) % models.len();
            let begin = Instant::now();
            models[model](index)?;
            times[model].push(begin.elapsed().as_secs_f64());
        }
        progress(index + 1);
    }
    let percentiles = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| quantile(&times, q));
        Latency { p50, p90, p99, texts: times.len() }
    };
    Ok(times.into_iter().map(percentiles).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn models_take_turns_on_the_same_texts() {
        let order = RefCell::new(Vec::new());
        let model = |name: char| -> Run<'_, &'static str> {
            let order = &order;
            Box::new(move |index| {
                order.borrow_mut().push((name, index));
                Ok(())
            })
        };
        let found = measure(&mut [model('a'), model('b')], 2, Duration::MAX, |_| {}).unwrap();
        assert_eq!(found.iter().map(|l| l.texts).collect::<Vec<_>>(), [2, 2]);
        assert!(found.iter().all(|l| l.p50 <= l.p90 && l.p90 <= l.p99));
        let timed = order.borrow()[4..].to_vec();
        assert_eq!(timed, [('a', 0), ('b', 0), ('b', 1), ('a', 1)]);
    }

    #[test]
    fn time_is_bounded_and_errors_are_passed_on() {
        let slow: Run<'_, &'static str> = Box::new(|_| Ok(()));
        assert_eq!(measure(&mut [slow], 100, Duration::ZERO, |_| {}).unwrap()[0].texts, 1);
        let broken: Run<'_, &'static str> = Box::new(|_| Err("no"));
        assert_eq!(measure(&mut [broken], 3, Duration::MAX, |_| {}), Err("no"));
    }
}
