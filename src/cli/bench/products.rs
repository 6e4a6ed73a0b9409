//! The model's products alone: what the kernels make of the peak where nothing else runs.

use serde_json::{Value, json};

use crate::architectures::{EncoderSpec, LayerSpec};
use crate::cli::progress;
use crate::cli::table::{Table, megabytes};
use crate::eval::products::{Matrices, ProductSpeed};
use crate::plot::{BarSeries, Bars};

use super::Bench;
use super::report::Section;

/// Rows of activations, from a short text to a long one; the encoder takes 48 through half a layer at a time, on tiles 256.
const ROWS: [usize; 6] = [16, 32, 48, 128, 256, 512];

/// What was found for some rows times a matrix `[n, k]`.
struct Found {
    n: usize,
    k: usize,
    m: usize,
    /// The same matrix again and again, which stays in a cache.
    repeated: ProductSpeed,
    /// As many matrices as the model's are, one after another.
    in_turn: ProductSpeed,
}

pub(super) fn run(bench: &Bench) -> Section {
    let (spec, kernels) = (bench.encoder.spec(), bench.kernels);
    let all_sizes = spec.layers.iter().flat_map(|layer| layer_sizes(spec, layer));
    let (sizes, bytes) = (first_sizes(spec), all_sizes.map(|(n, k)| n * k).sum());
    let bar = progress::bar(sizes.len() * ROWS.len(), "products");
    let mut found = Vec::new();
    for (n, k) in sizes {
        let (one, all) = (Matrices::new(kernels, n, k, 0), Matrices::new(kernels, n, k, bytes));
        for m in ROWS {
            bar.set_message(format!("{n}x{k}, {m} rows"));
            let speed = |matrices: &Matrices| matrices.speed(m, bench.duration / 2);
            found.extend(speed(&one).zip(speed(&all)).map(|(repeated, in_turn)| Found { n, k, m, repeated, in_turn }));
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let note = match kernels.multiply_instruction() {
        Some(instruction) => format!(
            "One thread. % of peak: of {instruction} in registers, right before and after; the median. Repeated: the same \
             matrix again, from a cache. In turn: {} of matrices one after another, as many as the model has.",
            megabytes(bytes as u64)
        ),
        None => "The scalar kernels have no peak to compare with.".into(),
    };
    Section {
        key: "products",
        title: "Products: int8 matrices of the first layer",
        table: table(&found),
        rows: found.iter().map(Found::json).collect(),
        figures: if found.is_empty() { Vec::new() } else { vec![figure(&found)] },
        notes: vec![note],
    }
}

/// Outputs and inputs of the products of a layer: queries, keys and values; what follows attention; both of the
/// feed-forward network.
fn layer_sizes(spec: &EncoderSpec, layer: &LayerSpec) -> [(usize, usize); 4] {
    let (hidden, attention, inner) = (spec.hidden_size, layer.num_heads * spec.head_dim, layer.intermediate_size);
    [(3 * attention, hidden), (hidden, attention), (inner, hidden), (hidden, inner)]
}

/// Those of the first layer, each once.
fn first_sizes(spec: &EncoderSpec) -> Vec<(usize, usize)> {
    let mut sizes: Vec<_> = spec.layers.iter().take(1).flat_map(|layer| layer_sizes(spec, layer)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

impl Found {
    fn variants(&self) -> [&ProductSpeed; 2] {
        [&self.repeated, &self.in_turn]
    }

    fn json(&self) -> Value {
        let figures = |speed: &ProductSpeed| {
            json!({
                "macs_per_second": speed.macs_per_second,
                "percent_of_peak": speed.percent(0.5),
                "p10_percent": speed.percent(0.1),
                "p90_percent": speed.percent(0.9),
                "runs": speed.runs(),
            })
        };
        let [repeated, in_turn] = self.variants().map(figures);
        json!({ "outputs": self.n, "inputs": self.k, "rows": self.m, "repeated": repeated, "in_turn": in_turn })
    }
}

fn table(found: &[Found]) -> Table {
    let mut table =
        Table::new(["outputs x inputs", "rows", "repeated: GMAC/s", "% of peak", "in turn: GMAC/s", "% of peak"]);
    for found in found {
        let figures = |speed: &ProductSpeed| {
            [format!("{:.0}", speed.macs_per_second / 1e9), format!("{:.1}", speed.percent(0.5))]
        };
        let about = [format!("{}x{}", found.n, found.k), found.m.to_string()];
        table.row(about.into_iter().chain(found.variants().into_iter().flat_map(figures)));
    }
    table
}

fn figure(found: &[Found]) -> String {
    let series = |name: &str, speed: fn(&Found) -> &ProductSpeed| BarSeries {
        name: name.into(),
        values: found.iter().map(|found| Some(speed(found).percent(0.5))).collect(),
        ..BarSeries::default()
    };
    Bars {
        title: "% of the peak by outputs x inputs, rows".into(),
        categories: found.iter().map(|f| format!("{}x{}, {}", f.n, f.k, f.m)).collect(),
        series: vec![series("repeated", |f| &f.repeated), series("in turn", |f| &f.in_turn)],
        ..Bars::default()
    }
    .svg()
}
