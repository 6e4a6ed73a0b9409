//! A run as a page of curves.

use crate::plot::{Block, LineSeries, Lines, Page};
use crate::train::{EpochRecord, History, StepRecord};

/// Points of a curve over steps.
const POINTS: usize = 150;

/// A figure of an epoch, when it has it.
type OfEpoch = fn(&EpochRecord) -> Option<f64>;

/// Loss, gradient and step size over steps, and the scores of each epoch; `measure` is what their accuracy is called.
pub(super) fn page(title: &str, measure: &str, history: &History, best: usize) -> String {
    let steps = |name: &str, y: &str, value: fn(&StepRecord) -> f32| {
        let size = history.steps.len().div_ceil(POINTS).max(1);
        let mean = |part: &[StepRecord]| {
            let sum: f64 = part.iter().map(|s| f64::from(value(s))).sum();
            (part[part.len() - 1].step as f64, sum / part.len() as f64)
        };
        let points = history.steps.chunks(size).map(mean).collect();
        let series = vec![LineSeries { name: name.into(), points }];
        Lines { title: y.into(), x_label: "step".into(), series, ..Lines::default() }.svg()
    };
    let epochs = |title: &str, series: &[(&str, OfEpoch)]| {
        let line = |(name, value): &(&str, OfEpoch)| {
            let points = history.epochs.iter().filter_map(|e| Some((e.epoch as f64, value(e)?))).collect();
            LineSeries { name: (*name).into(), points }
        };
        let series = series.iter().map(line).filter(|s: &LineSeries| !s.points.is_empty()).collect();
        Lines { title: title.into(), x_label: "epoch".into(), series, ..Lines::default() }.svg()
    };
    let dev_measure = format!("dev {measure}");
    let mut table =
        vec![["epoch", "train loss", "dev loss", &dev_measure, "dev correlation"].map(String::from).to_vec()];
    for e in &history.epochs {
        let number = |x: Option<f64>| x.map_or(String::new(), |x| format!("{x:.4}"));
        let mark = if e.epoch == best { " (best)" } else { "" };
        let (loss, dev_loss) = (Some(f64::from(e.train_loss)), Some(f64::from(e.dev.loss)));
        let cells = [loss, dev_loss, e.dev.accuracy, e.dev.pearson].map(number);
        table.push(std::iter::once(format!("{}{mark}", e.epoch)).chain(cells).collect());
    }
    let blocks = vec![
        Block::Table(table),
        Block::Figure(epochs(
            "Loss by epoch",
            &[("train", |e| Some(f64::from(e.train_loss))), ("dev", |e| Some(f64::from(e.dev.loss)))],
        )),
        Block::Figure(epochs(
            "Dev scores by epoch",
            &[(measure, |e| e.dev.accuracy), ("correlation", |e| e.dev.pearson)],
        )),
        Block::Figure(steps("loss", "Training loss", |s| s.loss)),
        Block::Figure(steps("norm", "Length of the gradient before clipping", |s| s.norm)),
        Block::Figure(steps("encoder", "Step size", |s| s.learning_rate)),
    ];
    Page { title: title.into(), blocks }.html()
}
