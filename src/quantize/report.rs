//! What quantization did to a model, as one HTML page for someone who never quantized anything.

use crate::checkpoint::LayerError;
use crate::plot::{BarSeries, Bars, Block, Distribution, LineSeries, Lines, Page, Point, Points, Scale};

use super::observers::Histogram;
use super::{Answers, Module, Place, Verdict};

/// Matrices of a block in the order of [`LayerNames::linears`](crate::architectures::LayerNames::linears), as people
/// call them.
const ROLES: [&str; 6] = ["query", "key", "value", "attention output", "feed-forward in", "feed-forward out"];
/// Distributions shown of weights, and of activations.
const SHOWN: usize = 6;

/// Everything that the page shows; what is empty or none is left out.
#[derive(Debug, Default)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// How it was quantized, in words.
    pub recipe: String,
    /// Its modules, with what became of them.
    pub modules: Vec<Stored>,
    /// Bytes that stay float in any recipe: biases, norms, heads.
    pub float_bytes: u64,
    /// What enters linear layers.
    pub inputs: Vec<Entering>,
    /// The whole model against its float original, and on how many texts.
    pub verdict: Option<(Verdict, Answers, usize)>,
    /// What each form of each module alone costs.
    pub sensitivity: Option<Sensitivity>,
    /// Recipes that were compared.
    pub tried: Vec<Tried>,
    /// Bound on agreement.
    pub min_agreement: Option<f64>,
}

/// What each form of each module alone costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sensitivity {
    /// Names of the forms.
    pub forms: Vec<String>,
    /// For each module, the divergence with each form; none where it was not measured.
    pub losses: Vec<Vec<Option<f64>>>,
}

/// A part of a model: its name, and the modules in it.
type Part = (&'static str, fn(&Module) -> bool);

/// A module and what became of it.
#[derive(Debug)]
pub struct Stored {
    /// Which.
    pub module: Module,
    /// The short name of its form, such as `int4-group32`.
    pub form: String,
    /// Bytes in the file.
    pub bytes: u64,
    /// Its error; none when it stays float.
    pub error: Option<LayerError>,
    /// Its weights before.
    pub weights: Histogram,
    /// Values that weights can have now, in the row with the median scale.
    pub levels: Vec<f64>,
}

/// Activations at one site.
#[derive(Debug)]
pub struct Entering {
    /// Where, in words.
    pub name: String,
    /// What was seen.
    pub values: Histogram,
    /// Values that can be represented.
    pub levels: Vec<f64>,
    /// What the levels are, in words.
    pub level_name: String,
}

/// A recipe that was measured end to end.
#[derive(Clone, Debug, PartialEq)]
pub struct Tried {
    /// Its name.
    pub name: String,
    /// Bytes of its weights.
    pub bytes: u64,
    /// Agreement with the float model.
    pub agreement: f64,
    /// Seconds of all matrix products for a batch of the stated size, from the timings of single ones.
    pub seconds: Option<f64>,
    /// Whether it is the one that was chosen.
    pub chosen: bool,
}

impl Report {
    /// The page.
    pub fn page(&self) -> Page {
        let mut blocks = self.summary();
        blocks.extend(self.sizes());
        blocks.extend(self.tried_recipes());
        blocks.extend(self.errors());
        blocks.extend(self.sensitivities());
        blocks.extend(self.weights());
        blocks.extend(self.activations());
        Page { title: format!("{}: what quantization did", self.model), blocks }
    }

    fn bytes(&self) -> (u64, u64) {
        let float: u64 = self.modules.iter().map(|m| 4 * (m.module.rows * m.module.columns) as u64).sum();
        let stored: u64 = self.modules.iter().map(|m| m.bytes).sum();
        (float + self.float_bytes, stored + self.float_bytes)
    }

    fn summary(&self) -> Vec<Block> {
        let (before, after) = self.bytes();
        let mut blocks = vec![text(
            "A model is a few large tables of numbers (weights). Quantization stores each number as a small integer \
             and a shared step size, so that files shrink and processors, which multiply small integers quickly, get \
             faster. Rounding costs a little accuracy. This page shows how much, and where.",
        )];
        let mut table = vec![row(["", "float (32 bits)", "quantized"])];
        table.push(row(["size of the weights", &megabytes(before), &megabytes(after)]));
        table.push(row(["share of the float size", "100 %", &percent(after as f64 / before.max(1) as f64)]));
        if let Some((verdict, answers, texts)) = &self.verdict {
            let (cosine, texts) = (format!("{:.5}", verdict.cosine), format!("{texts} texts"));
            match answers {
                Answers::Vectors => {
                    table.push(row([&format!("mean cosine to the float model's vectors, {texts}"), "", &cosine]));
                }
                _ => {
                    let agreement = percent(verdict.agreement);
                    table.push(row([&format!("same answer as the float model, {texts}"), "", &agreement]));
                    table.push(row(["mean cosine of the outputs", "", &cosine]));
                }
            }
            table.push(row(["signal over noise of the outputs", "", &decibel(verdict.sqnr_db)]));
            table.push(row(["largest difference of an output", "", &format!("{:.4}", verdict.max_abs)]));
        }
        blocks.push(Block::Table(table));
        blocks.push(text(&format!("Recipe: {}.", self.recipe)));
        if let Some((_, answers, _)) = &self.verdict {
            blocks.push(text(match answers {
                Answers::Labels => {
                    "Agreement is the share of texts for which both models choose the same label. Accuracy on \
                     labelled texts cannot have changed by more than the share that differs."
                }
                Answers::LabelSets => {
                    "Agreement is the share of texts for which both models choose the same set of labels."
                }
                Answers::Numbers => {
                    "Agreement is the share of texts whose numbers differ by at most a tenth of a standard deviation."
                }
                Answers::Vectors => {
                    "For sentence vectors, agreement is the mean cosine between the vectors of both models: 1 means \
                     the same direction, 0 means nothing in common."
                }
            }));
        }
        blocks
    }

    fn sizes(&self) -> Vec<Block> {
        let parts: [Part; 3] = [
            ("embedding tables", |m| matches!(m.place, Place::Table(_))),
            ("attention", |m| matches!(m.place, Place::Matrix { index: 0..=3, .. })),
            ("feed-forward", |m| matches!(m.place, Place::Matrix { index: 4.., .. })),
        ];
        let sum = |is: fn(&Module) -> bool, bytes: &dyn Fn(&Stored) -> u64| {
            self.modules.iter().filter(|m| is(&m.module)).map(bytes).sum::<u64>() as f64 / 1e6
        };
        let float = |m: &Stored| 4 * (m.module.rows * m.module.columns) as u64;
        let rest = self.float_bytes as f64 / 1e6;
        let values = |bytes: &dyn Fn(&Stored) -> u64| {
            parts.iter().map(|(_, is)| Some(sum(*is, bytes))).chain([Some(rest)]).collect()
        };
        let series = |name: &str, values| BarSeries { name: name.into(), values, limits: Vec::new() };
        let figure = Bars {
            title: "Size by part, MB".into(),
            categories: parts.iter().map(|(name, _)| name.to_string()).chain(["biases, norms, heads".into()]).collect(),
            series: vec![series("float", values(&float)), series("quantized", values(&|m| m.bytes))],
            ..Bars::default()
        };
        vec![
            Block::Heading("Where the size is".into()),
            text("Tables hold a vector for every word piece; in small models they are half of everything."),
            Block::Figure(figure.svg()),
        ]
    }

    fn tried_recipes(&self) -> Vec<Block> {
        if self.tried.is_empty() {
            return Vec::new();
        }
        let point = |tried: &Tried, x: f64| Point {
            name: tried.name.clone(),
            group: usize::from(tried.chosen),
            x,
            y: tried.agreement,
            ..Point::default()
        };
        let figure = |title: &str, x_label: &str, points: Vec<Point>| {
            let figure = Points {
                title: title.into(),
                x_label: x_label.into(),
                x_scale: Scale::Span,
                groups: vec!["tried".into(), "chosen".into()],
                points,
                limit: self.min_agreement.map(|bound| (bound, "bound".into())),
            };
            Block::Figure(figure.svg())
        };
        let by_size = self.tried.iter().map(|t| point(t, t.bytes as f64 / 1e6)).collect();
        let by_time: Vec<Point> = self.tried.iter().filter_map(|t| Some(point(t, t.seconds? * 1e3))).collect();
        let mut blocks = vec![
            Block::Heading("Recipes that were tried".into()),
            text("Up is more like the float model, left is smaller or faster. Each point is the whole model."),
            figure("Agreement with the float model, by size", "size, MB", by_size),
        ];
        if !by_time.is_empty() {
            blocks.push(figure("Agreement with the float model, by time", "matrix products of 32 tokens, ms", by_time));
        }
        let mut table = vec![row(["recipe", "size", "agreement", "matrix products, ms", ""])];
        table.extend(self.tried.iter().map(|t| {
            let time = t.seconds.map_or(String::new(), |s| format!("{:.3}", s * 1e3));
            let chosen = if t.chosen { "chosen" } else { "" };
            row([&t.name, &megabytes(t.bytes), &format!("{:.4}", t.agreement), &time, chosen])
        }));
        blocks.push(Block::Table(table));
        blocks
    }

    fn errors(&self) -> Vec<Block> {
        let value = |m: &Stored| m.error.as_ref().and_then(|e| e.sqnr_db);
        let figure = Lines {
            title: "Signal over noise of the weights, dB: higher is better, 6 dB is one bit".into(),
            x_label: "layer".into(),
            series: self.by_role(&value),
            ..Lines::default()
        };
        let mut table = vec![row(["module", "stored as", "MB", "SQNR dB", "cosine", "MSE", "largest error"])];
        for m in &self.modules {
            let cells = match &m.error {
                Some(e) => {
                    let numbers = [format!("{:.6}", e.cosine), format!("{:.3e}", e.mse), format!("{:.5}", e.max_abs)];
                    [vec![decibel(e.sqnr_db)], numbers.to_vec()].concat()
                }
                None => vec!["exact".into(), "1".into(), "0".into(), "0".into()],
            };
            let size = format!("{:.2}", m.bytes as f64 / 1e6);
            table.push([vec![m.module.name.clone(), m.form.clone(), size], cells].concat());
        }
        vec![
            Block::Heading("Error by layer".into()),
            text(
                "How far the stored weights are from the original ones. SQNR is the power of the weights over the \
                 power of the rounding error, on a logarithmic scale. A low value is a hint and no verdict: a layer \
                 can have large errors that hardly reach the answer.",
            ),
            Block::Figure(figure.svg()),
            Block::Table(table),
        ]
    }

    fn sensitivities(&self) -> Vec<Block> {
        let Some(Sensitivity { forms, losses }) = &self.sensitivity else { return Vec::new() };
        let mut blocks = vec![
            Block::Heading("What each layer alone costs".into()),
            text(
                "One module is quantized, everything else stays float, and the answers are compared. The number is \
                 the mean divergence of the answers from those of the float model (for labels, the Kullback-Leibler \
                 divergence of the probabilities; for vectors, 1 - cosine). Zero is no difference.",
            ),
        ];
        for (index, form) in forms.iter().enumerate() {
            let of = |m: &Stored| {
                let at = self.modules.iter().position(|other| other.module == m.module)?;
                losses[at][index].filter(|loss| *loss > 0.0)
            };
            let series = self.by_role(&of);
            if series.iter().all(|s| s.points.is_empty()) {
                continue;
            }
            let figure = Lines {
                title: format!("Divergence when only this matrix is {form}"),
                x_label: "layer".into(),
                y_scale: Scale::Log,
                series,
                ..Lines::default()
            };
            blocks.push(Block::Figure(figure.svg()));
        }
        let header = ["module".to_string()].into_iter().chain(forms.iter().cloned()).collect();
        let lines = self.modules.iter().zip(losses).map(|(m, losses)| {
            let cells = losses.iter().map(|loss| loss.map_or(String::new(), |loss| format!("{loss:.2e}")));
            [m.module.name.clone()].into_iter().chain(cells).collect()
        });
        blocks.push(Block::Table([header].into_iter().chain(lines).collect()));
        blocks
    }

    /// A line per role of a matrix, over the layers.
    fn by_role(&self, value: &dyn Fn(&Stored) -> Option<f64>) -> Vec<LineSeries> {
        let of_role = |(role, name): (usize, &&str)| LineSeries {
            name: name.to_string(),
            points: self
                .modules
                .iter()
                .filter_map(|m| match m.module.place {
                    Place::Matrix { layer, index } if index == role => Some((layer as f64, value(m)?)),
                    _ => None,
                })
                .collect(),
        };
        ROLES.iter().enumerate().map(of_role).collect()
    }

    fn weights(&self) -> Vec<Block> {
        let mut shown: Vec<&Stored> = self.modules.iter().filter(|m| m.error.is_some()).collect();
        shown.sort_by(|a, b| {
            let db = |m: &Stored| m.error.as_ref().and_then(|e| e.sqnr_db).unwrap_or(f64::INFINITY);
            db(a).total_cmp(&db(b))
        });
        if shown.is_empty() {
            return Vec::new();
        }
        let mut blocks = vec![
            Block::Heading("Weights and the steps they are rounded to".into()),
            text(
                "How often each weight value occurs in the modules with the largest errors, and the values that are \
                 left after rounding (vertical lines; where every row has steps of its own, those of the row with the \
                 median step, while the weights are those of all rows). Rare large weights make the steps wide for all \
                 the others.",
            ),
        ];
        for m in shown.into_iter().take(SHOWN) {
            let figure = Distribution {
                title: format!("{} ({}, {})", m.module.name, m.form, decibel(m.error.as_ref().and_then(|e| e.sqnr_db))),
                x_label: "weight".into(),
                bins: bins(&m.weights),
                levels: m.levels.clone(),
                level_name: "after rounding".into(),
            };
            blocks.push(Block::Figure(figure.svg()));
        }
        blocks
    }

    fn activations(&self) -> Vec<Block> {
        if self.inputs.is_empty() {
            return Vec::new();
        }
        let mut blocks = vec![
            Block::Heading("Activations: what enters the layers".into()),
            text(
                "Weights are known in advance, activations depend on the text. The widest are shown, as seen on the \
                 calibration texts, with the 256 values of an 8-bit quantization. With one range per token each token \
                 has steps of its own, narrower than those of the whole range that are drawn; a static range is the \
                 one drawn, and what lies outside of it is cut off.",
            ),
        ];
        let mut shown: Vec<&Entering> = self.inputs.iter().collect();
        shown.sort_by(|a, b| peakedness(&b.values).total_cmp(&peakedness(&a.values)));
        for entering in shown.into_iter().take(SHOWN) {
            let figure = Distribution {
                title: entering.name.clone(),
                x_label: "activation".into(),
                bins: bins(&entering.values),
                levels: entering.levels.clone(),
                level_name: entering.level_name.clone(),
            };
            blocks.push(Block::Figure(figure.svg()));
        }
        blocks
    }
}

/// Range over standard deviation: large where outliers make steps wide.
fn peakedness(histogram: &Histogram) -> f64 {
    let Some((lo, hi)) = histogram.ends() else { return 0.0 };
    let total = histogram.total().max(1) as f64;
    let mean = histogram.bins().map(|(v, n)| v * n as f64).sum::<f64>() / total;
    let variance = histogram.bins().map(|(v, n)| (v - mean).powi(2) * n as f64).sum::<f64>() / total;
    f64::from(hi - lo) / variance.sqrt().max(f64::MIN_POSITIVE)
}

fn bins(histogram: &Histogram) -> Vec<(f64, f64)> {
    histogram.bins().map(|(value, count)| (value, count as f64)).collect()
}

fn text(text: &str) -> Block {
    Block::Text(text.into())
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_string).to_vec()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

fn decibel(db: Option<f64>) -> String {
    db.map_or("exact".into(), |db| format!("{db:.1} dB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut weights = Histogram::default();
        weights.add(&[-1.0, 0.25, 0.5, 1.0]);
        let module = |name: &str, place| Module { name: name.into(), rows: 10, columns: 100, place, bias: None };
        let stored = |module: Module, bytes, db| Stored {
            module,
            form: "int8".into(),
            bytes,
            error: Some(LayerError { sqnr_db: Some(db), cosine: 0.999, ..LayerError::default() }),
            weights: weights.clone(),
            levels: vec![-1.0, 0.0, 1.0],
        };
        Report {
            model: "tiny <one>".into(),
            recipe: "w8a8-dynamic".into(),
            modules: vec![
                stored(module("words", Place::Table(0)), 1040, 42.0),
                stored(module("layer.0.query", Place::Matrix { layer: 0, index: 0 }), 1040, 33.5),
            ],
            float_bytes: 80,
            inputs: vec![Entering {
                name: "into layer 0".into(),
                values: weights,
                levels: vec![0.0],
                level_name: "u8".into(),
            }],
            verdict: Some((Verdict { agreement: 0.9875, cosine: 0.99, ..Verdict::default() }, Answers::Labels, 2400)),
            sensitivity: Some(Sensitivity {
                forms: vec!["int8".into()],
                losses: vec![vec![Some(1e-4)], vec![Some(3e-3)]],
            }),
            tried: vec![Tried {
                name: "w8a8".into(),
                bytes: 2160,
                agreement: 0.9875,
                seconds: Some(1e-3),
                chosen: true,
            }],
            min_agreement: Some(0.98),
        }
    }

    #[test]
    fn the_page_tells_size_agreement_errors_and_distributions() {
        let html = report().page().html();
        for part in [
            "tiny &lt;one&gt;: what quantization did",
            "2400 texts",
            "98.75 %",
            "26.73 %",
            "Where the size is",
            "Recipes that were tried",
            "33.5 dB",
            "What each layer alone costs",
            "3.00e-3",
            "layer.0.query (int8, 33.5 dB)",
            "into layer 0",
        ] {
            assert!(html.contains(part), "no {part}");
        }
        assert!(!html.contains("NaN") && !html.contains("http:") && !html.contains("https:"), "nothing is loaded");
        let worst = html.find("layer.0.query (int8").unwrap();
        assert!(worst < html.find("words (int8").unwrap(), "the worst module comes first");
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let bare = Report { inputs: Vec::new(), verdict: None, sensitivity: None, tried: Vec::new(), ..report() };
        let html = bare.page().html();
        for part in ["same answer", "Recipes that were tried", "What each layer alone", "Activations"] {
            assert!(!html.contains(part), "{part} without a measurement");
        }
    }
}
