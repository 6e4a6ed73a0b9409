//! Observers: which range of real values a static quantization of activations covers.
//!
//! An observer is fed with slices as they come and keeps a fixed amount of memory, however many there are. In the end
//! it names one range `[lo, hi]`; what lies outside is clipped, what lies inside is rounded to one of 256 levels
//! ([`QParams::for_range_u8`](crate::kernels::affine::QParams::for_range_u8)). A wide range clips nothing and rounds
//! coarsely, a narrow one the other way round; the observers differ in where they draw the line. No padding exists, so
//! none is observed.

mod entropy;
mod histogram;
mod mse;
mod percentile;
mod range;

pub use entropy::Entropy;
pub use histogram::{BINS, Histogram};
pub use mse::Mse;
pub use percentile::Percentile;
pub use range::{Ema, MinMax};

/// Levels of the integers that a range is divided into.
const LEVELS: usize = 256;

/// Real values that a quantization covers; `lo <= hi`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The least.
    pub lo: f32,
    /// The largest.
    pub hi: f32,
}

/// Sees values, names a range.
pub trait Observer {
    /// Sees the values of one sequence (one matrix of activations, any order); non-finite ones are ignored.
    fn observe(&mut self, values: &[f32]);

    /// The range for what was seen; none when nothing was.
    fn range(&self) -> Option<Range>;
}

/// Which observer chooses the ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObserverKind {
    /// [`MinMax`].
    MinMax,
    /// [`Ema`].
    Ema,
    /// [`Percentile`].
    Percentile,
    /// [`Mse`].
    #[default]
    Mse,
    /// [`Entropy`].
    Entropy,
}

impl ObserverKind {
    /// All, in the order of their names below.
    pub const ALL: [ObserverKind; 5] = [Self::MinMax, Self::Ema, Self::Percentile, Self::Mse, Self::Entropy];

    /// Name in commands and recipes.
    pub fn name(self) -> &'static str {
        match self {
            ObserverKind::MinMax => "minmax",
            ObserverKind::Ema => "ema",
            ObserverKind::Percentile => "percentile",
            ObserverKind::Mse => "mse",
            ObserverKind::Entropy => "entropy",
        }
    }

    /// A fresh observer with its defaults.
    pub fn start(self) -> Box<dyn Observer + Send> {
        match self {
            ObserverKind::MinMax => Box::new(MinMax::default()),
            ObserverKind::Ema => Box::new(Ema::default()),
            ObserverKind::Percentile => Box::new(Percentile::default()),
            ObserverKind::Mse => Box::new(Mse::default()),
            ObserverKind::Entropy => Box::new(Entropy::default()),
        }
    }
}

impl std::str::FromStr for ObserverKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| format!("\"{text}\" is no observer; there are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_observer_has_a_name_and_a_range_for_what_it_saw() {
        for kind in ObserverKind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
            let mut observer = kind.start();
            assert_eq!(observer.range(), None);
            observer.observe(&[f32::NAN, f32::INFINITY]);
            assert_eq!(observer.range(), None, "{}: what is not finite is not seen", kind.name());
            observer.observe(&[-1.0, 0.5, 2.0]);
            let range = observer.range().unwrap();
            assert!(
                range.lo < 0.0 && range.lo >= -1.0 && range.hi > 0.5 && range.hi <= 2.0,
                "{}: {range:?}",
                kind.name()
            );
            let mut zeros = kind.start();
            zeros.observe(&[0.0; 4]);
            assert_eq!(zeros.range(), Some(Range { lo: 0.0, hi: 0.0 }), "{}", kind.name());
        }
        let error = "median".parse::<ObserverKind>().unwrap_err();
        assert!(error.contains("median") && error.contains("minmax, ema, percentile, mse, entropy"), "{error}");
    }
}
