//! Names of classes, which data and models spell differently.

use std::collections::BTreeMap;

use crate::data::Example;

use super::EvalError;

/// The index of the class that `name` means among `labels`: the same name, the same name in other case, or the index
/// itself (`2`, or `LABEL_2` as transformers names classes without a name).
pub fn find(name: &str, labels: &[String]) -> Option<usize> {
    let name = name.trim();
    let exact = labels.iter().position(|label| label == name);
    let in_other_case = || {
        let mut same = labels.iter().enumerate().filter(|(_, l)| l.to_lowercase() == name.to_lowercase());
        // Two labels that differ in case only are two labels.
        same.next().filter(|_| same.next().is_none()).map(|(index, _)| index)
    };
    let index = || name.trim_start_matches("LABEL_").parse().ok().filter(|index| *index < labels.len());
    exact.or_else(in_other_case).or_else(index)
}

/// The classes of several models as one list, the first model's first, and for each model where its own classes are in
/// it.
pub fn union(models: &[&[String]]) -> (Vec<String>, Vec<Vec<usize>>) {
    let mut all: Vec<String> = models.first().map(|first| first.to_vec()).unwrap_or_default();
    let mut places = Vec::new();
    for labels in models {
        let mut place = |label: &String| {
            let known = all.iter().position(|l| l == label);
            let known = known.or_else(|| all.iter().position(|l| l.to_lowercase() == label.to_lowercase()));
            known.unwrap_or_else(|| {
                all.push(label.clone());
                all.len() - 1
            })
        };
        places.push(labels.iter().map(&mut place).collect());
    }
    (all, places)
}

/// The true class of each example as an index into `labels`; none for one without a label.
///
/// # Errors
/// [`EvalError::UnknownLabels`] with every label that is not there.
pub fn truths(examples: &[Example], labels: &[String], model: &str) -> Result<Vec<Option<usize>>, EvalError> {
    let mut unknown = Unknown::default();
    let mut find_in = |e: &Example| {
        let name = e.label.as_ref()?.to_string();
        find(&name, labels).or_else(|| unknown.note(name, e.line))
    };
    let found = examples.iter().map(&mut find_in).collect();
    unknown.none_or_error(model, labels)?;
    Ok(found)
}

/// Whether each of `labels` is true of each example, `[examples][labels]`; none for an example that does not say. A
/// single label counts as a list of one.
///
/// # Errors
/// [`EvalError::UnknownLabels`] with every label that is not there.
pub fn truth_sets(examples: &[Example], labels: &[String], model: &str) -> Result<Vec<Option<Vec<bool>>>, EvalError> {
    let mut unknown = Unknown::default();
    let mut set = |e: &Example| {
        let single = || e.label.as_ref().map(|label| vec![label.to_string()]);
        let names = e.labels.clone().or_else(single)?;
        let mut truth = vec![false; labels.len()];
        for name in names {
            if let Some(index) = find(&name, labels).or_else(|| unknown.note(name, e.line)) {
                truth[index] = true;
            }
        }
        Some(truth)
    };
    let found = examples.iter().map(&mut set).collect();
    unknown.none_or_error(model, labels)?;
    Ok(found)
}

/// Labels that a model does not have: how often each occurs, and the line of the first.
#[derive(Default)]
struct Unknown(BTreeMap<String, (usize, u64)>);

impl Unknown {
    fn note<T>(&mut self, name: String, line: u64) -> Option<T> {
        self.0.entry(name).or_insert((0, line)).0 += 1;
        None
    }

    fn none_or_error(self, model: &str, labels: &[String]) -> Result<(), EvalError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let one = |(name, (count, line)): (String, (usize, u64))| match count {
            1 => format!("\"{name}\" (line {line})"),
            count => format!("\"{name}\" ({count} times, first in line {line})"),
        };
        let unknown = self.0.into_iter().map(one).collect();
        Err(EvalError::UnknownLabels { model: model.to_string(), unknown, known: labels.to_vec() })
    }
}

/// Where a class lies on a scale, for classes that lie on one: -1, 0 and 1 for negative, neutral and positive, and the
/// number at the beginning of names such as "4 stars". None unless all of them do.
pub fn scale(labels: &[String]) -> Option<Vec<f64>> {
    let value = |label: &String| match label.trim().to_lowercase().as_str() {
        "negative" | "neg" => Some(-1.0),
        "neutral" | "neu" => Some(0.0),
        "positive" | "pos" => Some(1.0),
        other => other.split_whitespace().next()?.parse().ok().filter(|x: &f64| x.is_finite()),
    };
    labels.iter().map(value).collect()
}

/// The value on the scale that scores expect: their sum, each times the value of its class.
pub fn expected_value(scores: &[f32], scale: &[f64]) -> f64 {
    scores.iter().zip(scale).map(|(score, value)| f64::from(*score) * value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Label;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    #[test]
    fn classes_are_found_by_name_in_any_case_and_by_index() {
        let labels = names(&["Negative", "neutral", "POSITIVE"]);
        let cases = [("Negative", 0), ("negative", 0), (" positive ", 2), ("1", 1), ("LABEL_2", 2)];
        for (name, index) in cases {
            assert_eq!(find(name, &labels), Some(index), "{name}");
        }
        assert_eq!((find("3", &labels), find("happy", &labels)), (None, None));
        assert_eq!(find("1", &names(&["1", "0"])), Some(0), "a name goes before an index");
        let ambiguous = names(&["a", "A"]);
        assert_eq!([find("a", &ambiguous), find("A", &ambiguous)], [Some(0), Some(1)]);
    }

    #[test]
    fn models_share_the_classes_that_they_name_alike() {
        let (a, b) = (names(&["negative", "positive"]), names(&["Positive", "neutral", "Negative"]));
        let (all, places) = union(&[&a, &b]);
        assert_eq!(all, ["negative", "positive", "neutral"]);
        assert_eq!(places, [vec![0, 1], vec![1, 2, 0]]);
    }

    #[test]
    fn all_unknown_labels_are_told_at_once() {
        let example =
            |line, label: &str| Example { line, label: Some(Label::Name(label.into())), ..Example::default() };
        let labels = names(&["negative", "positive"]);
        let examples = [example(2, "happy"), example(3, "POSITIVE"), example(5, "sad"), example(7, "happy")];
        let error = truths(&examples, &labels, "m").unwrap_err().to_string();
        for part in ["\"happy\" (2 times, first in line 2)", "\"sad\" (line 5)", "negative, positive"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(truths(&examples[1..2], &labels, "m").unwrap(), [Some(1)]);
    }

    #[test]
    fn sets_of_labels_are_read_and_an_empty_set_is_one() {
        let example = |labels: Option<&[&str]>| Example { labels: labels.map(names), ..Example::default() };
        let examples = [example(Some(&["B", "0"])), example(Some(&[])), example(None)];
        let found = truth_sets(&examples, &names(&["a", "b"]), "m").unwrap();
        assert_eq!(found, [Some(vec![true, true]), Some(vec![false, false]), None]);
    }

    #[test]
    fn labels_lie_on_a_scale_when_all_of_them_do() {
        assert_eq!(scale(&names(&["Negative", "neutral", "pos"])), Some(vec![-1.0, 0.0, 1.0]));
        assert_eq!(scale(&names(&["1 star", "2 stars"])), Some(vec![1.0, 2.0]));
        assert_eq!(scale(&names(&["positive", "spam"])), None);
        assert!((expected_value(&[0.2, 0.3, 0.5], &[-1.0, 0.0, 1.0]) - 0.3).abs() < 1e-6);
    }
}
