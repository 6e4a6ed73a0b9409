//! What enters the linear layers of a float model, seen once over sample texts and kept in bounded memory: histograms
//! and sums, never the activations themselves.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::architectures::{LayerNames, LinearNames, RaggedBatch};
use crate::kernels::affine::QParams;
use crate::nn::{CandleEncoder, Enters, Site};

use super::observers::{Histogram, Observer, ObserverKind, Range};
use super::report::Entering;

/// Rows that are gathered before their second moments are computed: one product of matrices instead of many small ones.
const ROWS_AT_ONCE: usize = 512;

/// What a run should keep.
#[derive(Clone, Copy, Debug, Default)]
pub struct CalibrateOptions {
    /// Who chooses ranges.
    pub observer: ObserverKind,
    /// Whether second moments are kept, which [`gptq`](super::gptq()) needs: 8 bytes per pair of channels and site.
    pub moments: bool,
}

/// What rows are multiplied by, `[channels]`, at the sites where they are smoothed.
pub type Smoothing = BTreeMap<Site, Vec<f32>>;

/// What was seen at every [`Site`].
#[derive(Debug)]
pub struct Calibration {
    sites: BTreeMap<Site, Seen>,
}

/// What was seen of the inputs of some linear layers.
pub struct Seen {
    observer: Box<dyn Observer + Send>,
    /// All values, smoothed where they are.
    pub histogram: Histogram,
    /// Tokens.
    pub rows: u64,
    sum: Vec<f64>,
    moments: Option<Moments>,
}

/// `X^T X`, and the rows that are not in it yet.
struct Moments {
    sum: Vec<f64>,
    rows: Vec<f32>,
}

impl Calibration {
    /// Runs the sequences through `encoder`; `progress` hears how many are done. Ranges and histograms are of the rows
    /// as they are rounded, multiplied by `smoothing`; means and moments of the rows as they are.
    ///
    /// # Errors
    /// Those of [`CandleEncoder::hidden_states`].
    pub fn run(
        encoder: &CandleEncoder,
        batches: &[RaggedBatch],
        options: CalibrateOptions,
        smoothing: &Smoothing,
        mut progress: impl FnMut(usize),
    ) -> candle_core::Result<Self> {
        let mut sites = BTreeMap::new();
        let mut done = 0;
        for batch in batches {
            let mut see = |site: Site, x: &Tensor| {
                let (_, channels) = x.dims2()?;
                let values = x.flatten_all()?.to_vec1::<f32>()?;
                let inputs = sites.entry(site).or_insert_with(|| Seen::new(channels, options));
                let factors = smoothing.get(&site).map(Vec::as_slice);
                let sequences = batch.ranges().map(|rows| &values[rows.start * channels..rows.end * channels]);
                sequences.for_each(|values| inputs.see(values, factors));
                Ok(())
            };
            encoder.hidden_states_seen(batch, &mut see)?;
            done += batch.len();
            progress(done);
        }
        sites.values_mut().for_each(Seen::flush);
        Ok(Calibration { sites })
    }

    /// What was seen at a site.
    ///
    /// # Panics
    /// When the encoder has no such site, or no sequence was run.
    pub fn at(&self, site: Site) -> &Seen {
        &self.sites[&site]
    }

    /// What enters a matrix, given the names of all blocks; none for what is no matrix of a block.
    pub fn of(&self, module: &str, layers: &[LayerNames]) -> Option<&Seen> {
        self.sites.get(&site_of(module, layers)?)
    }

    /// Every site with what was seen there, from the input of the model to its output.
    pub fn sites(&self) -> impl Iterator<Item = (Site, &Seen)> {
        self.sites.iter().map(|(site, inputs)| (*site, inputs))
    }
}

impl Calibration {
    /// Every site for the report, with the 256 levels of the range that the observer chose.
    pub fn entering(&self) -> Vec<Entering> {
        let of_site = |(site, inputs): (Site, &Seen)| {
            let range = inputs.range();
            let params = QParams::for_range_u8(range.lo, range.hi);
            let what = match site.enters {
                Enters::Attention => "query, key and value",
                Enters::Projection => "attention output",
                Enters::Up => "feed-forward in",
                Enters::Down => "feed-forward out",
            };
            Entering {
                name: format!("layer {}: what enters {what}", site.layer),
                values: inputs.histogram.clone(),
                levels: (0..=255).map(|q| f64::from(params.dequantize(q))).collect(),
                level_name: format!("levels from {:.2} to {:.2}", range.lo, range.hi),
            }
        };
        self.sites().map(of_site).collect()
    }
}

/// Where a matrix gets its inputs; `module` is the name of its weight, with or without `.weight`.
pub fn site_of(module: &str, layers: &[LayerNames]) -> Option<Site> {
    let named = |names: &LinearNames| names.weight.trim_end_matches(".weight") == module.trim_end_matches(".weight");
    layers.iter().enumerate().find_map(|(layer, names)| {
        let entered = [
            (Enters::Attention, &names.query),
            (Enters::Attention, &names.key),
            (Enters::Attention, &names.value),
            (Enters::Projection, &names.attention_output),
            (Enters::Up, &names.ffn_up),
            (Enters::Down, &names.ffn_down),
        ];
        entered.into_iter().find(|(_, names)| named(names)).map(|(enters, _)| Site { layer, enters })
    })
}

impl Seen {
    fn new(channels: usize, options: CalibrateOptions) -> Self {
        Seen {
            observer: options.observer.start(),
            histogram: Histogram::default(),
            rows: 0,
            sum: vec![0.0; channels],
            moments: options.moments.then(|| Moments { sum: vec![0.0; channels * channels], rows: Vec::new() }),
        }
    }

    /// Sees the rows of one sequence, `[tokens, channels]`, and what they are multiplied by before they are rounded.
    fn see(&mut self, values: &[f32], smoothing: Option<&[f32]>) {
        let channels = self.sum.len();
        let smoothed = smoothing.map(|f| values.iter().zip(f.iter().cycle()).map(|(x, f)| x * f).collect::<Vec<_>>());
        let rounded = smoothed.as_deref().unwrap_or(values);
        self.observer.observe(rounded);
        self.histogram.add(rounded);
        for row in values.chunks_exact(channels) {
            self.rows += 1;
            self.sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        if let Some(moments) = &mut self.moments {
            moments.rows.extend_from_slice(values);
            if moments.rows.len() >= ROWS_AT_ONCE * channels {
                moments.flush(channels);
            }
        }
    }

    fn flush(&mut self) {
        let channels = self.sum.len();
        self.moments.iter_mut().for_each(|moments| moments.flush(channels));
    }

    /// The range that the observer chose.
    ///
    /// # Panics
    /// When nothing was seen.
    pub fn range(&self) -> Range {
        self.observer.range().expect("a site that is listed has seen a sequence")
    }

    /// The parameters of a static quantization to u8 over the range that the observer chose; with a symmetric range,
    /// the zero point is 128.
    ///
    /// # Panics
    /// As [`Seen::range`].
    pub fn params(&self, symmetric: bool) -> QParams {
        let Range { lo, hi } = self.range();
        let end = hi.max(-lo);
        match symmetric {
            true => QParams { scale: (end / 127.0).max(f32::MIN_POSITIVE), zero_point: 128 },
            false => QParams::for_range_u8(lo, hi),
        }
    }

    /// Mean of each channel, `[channels]`.
    pub fn mean(&self) -> Vec<f32> {
        self.sum.iter().map(|sum| (sum / self.rows.max(1) as f64) as f32).collect()
    }

    /// `X^T X`, `[channels, channels]`, when it was asked for.
    pub fn moments(&self) -> Option<&[f64]> {
        self.moments.as_ref().map(|moments| moments.sum.as_slice())
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen").field("rows", &self.rows).field("channels", &self.sum.len()).finish_non_exhaustive()
    }
}

impl Moments {
    fn flush(&mut self, channels: usize) {
        let rows = std::mem::take(&mut self.rows);
        let count = rows.len() / channels;
        if count == 0 {
            return;
        }
        let product = Tensor::from_vec(rows, (count, channels), &candle_core::Device::Cpu)
            .and_then(|x| x.t()?.matmul(&x)?.flatten_all()?.to_vec1::<f32>())
            .expect("a matrix on the CPU can be multiplied with itself");
        self.sum.iter_mut().zip(product).for_each(|(sum, x)| *sum += f64::from(x));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architectures::{self, EncoderNames};
    use crate::checkpoint::ModelDir;

    fn golden() -> (CandleEncoder, EncoderNames) {
        let dir = ModelDir::open(std::path::Path::new("tests/goldens/bert")).unwrap();
        let mut weights = dir.weights().unwrap();
        let architecture = architectures::describe(dir.config(), &|name| weights.contains(name)).unwrap();
        let encoder = CandleEncoder::load(&architecture.spec, &architecture.encoder, &mut weights, 1).unwrap();
        (encoder, architecture.encoder)
    }

    fn texts() -> Vec<RaggedBatch> {
        let mut batches = vec![RaggedBatch::new(), RaggedBatch::new()];
        batches[0].push(&[2, 17, 40, 3], &[0; 4]);
        batches[0].push(&[2, 9, 3], &[0; 3]);
        batches[1].push(&[2, 55, 6, 31, 12, 3], &[0; 6]);
        batches
    }

    #[test]
    fn sums_are_those_of_all_tokens_that_entered() {
        let (encoder, names) = golden();
        let mut done = Vec::new();
        let options = CalibrateOptions { observer: ObserverKind::MinMax, moments: true };
        let found = Calibration::run(&encoder, &texts(), options, &Smoothing::new(), |n| done.push(n)).unwrap();
        assert_eq!(done, [2, 3]);
        assert_eq!(found.sites().count(), 4 * names.layers.len());

        let site = Site { layer: 1, enters: Enters::Down };
        let mut rows: Vec<Vec<f32>> = Vec::new();
        for batch in texts() {
            let mut see = |at: Site, x: &Tensor| {
                if at == site {
                    rows.extend(x.to_vec2::<f32>()?);
                }
                Ok(())
            };
            encoder.hidden_states_seen(&batch, &mut see).unwrap();
        }
        let inputs = found.of(&names.layers[1].ffn_down.weight, &names.layers).unwrap();
        assert_eq!((inputs.rows, rows.len()), (13, 13));
        let channels = rows[0].len();
        let column = |k: usize| rows.iter().map(move |row| row[k]);
        for k in [0, 5, channels - 1] {
            let mean = column(k).sum::<f32>() / 13.0;
            assert!((inputs.mean()[k] - mean).abs() < 1e-5);
            let product: f64 = column(k).zip(column(1)).map(|(a, b)| f64::from(a) * f64::from(b)).sum();
            let moment = inputs.moments().unwrap()[k * channels + 1];
            assert!((moment - product).abs() < 1e-4 * product.abs().max(1.0), "{moment}, {product}");
        }
        let all = || rows.iter().flatten().copied();
        let range = inputs.range();
        assert_eq!((range.lo, range.hi), (all().fold(0.0, f32::min), all().fold(0.0, f32::max)));
        assert_eq!(inputs.histogram.total(), (13 * channels) as u64);
    }

    #[test]
    fn matrices_that_share_an_input_share_what_was_seen() {
        let (_, names) = golden();
        let site = |name: &str| site_of(name, &names.layers);
        let first = &names.layers[0];
        let attention = Some(Site { layer: 0, enters: Enters::Attention });
        assert_eq!([&first.query, &first.key, &first.value].map(|n| site(&n.weight)), [attention; 3]);
        assert_eq!(site(first.ffn_up.weight.trim_end_matches(".weight")).unwrap().enters, Enters::Up);
        assert_eq!(site("embeddings.word_embeddings"), None);
    }
}
