//! Words of a text, for counting and for word statistics.

/// Whether `c` belongs to a script that is written without spaces: Chinese characters, kana, Thai, Lao, Khmer, Burmese.
///
/// Each such character counts as one word.
pub fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3005}'..='\u{3007}' | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{ff66}'..='\u{ff9f}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// Sizes of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextSize {
    /// Unicode scalar values.
    pub chars: usize,
    /// Runs between white space, and each character of an unspaced script: never fewer than `wc -w` counts.
    pub words: usize,
    /// Those runs that have a letter or a digit.
    pub spaced_words: usize,
    /// Characters of unspaced scripts.
    pub unspaced_chars: usize,
}

/// Counts characters and words.
pub fn size(text: &str) -> TextSize {
    let mut size = TextSize { chars: text.chars().count(), ..TextSize::default() };
    for run in text.split_whitespace() {
        let unspaced = run.chars().filter(|c| is_unspaced(*c)).count();
        let has_rest = run.chars().any(|c| !is_unspaced(c));
        size.words += unspaced + usize::from(has_rest);
        size.spaced_words += usize::from(run.chars().any(|c| c.is_alphanumeric() && !is_unspaced(c)));
        size.unspaced_chars += unspaced;
    }
    size
}

/// Terms of a text: runs of letters and digits in small letters, and each character of an unspaced script.
pub fn terms(text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    let mut term = String::new();
    for c in text.chars() {
        let unspaced = is_unspaced(c);
        if c.is_alphanumeric() && !unspaced {
            term.extend(c.to_lowercase());
            continue;
        }
        if !term.is_empty() {
            terms.push(std::mem::take(&mut term));
        }
        if unspaced && c.is_alphanumeric() {
            terms.push(c.to_string());
        }
    }
    if !term.is_empty() {
        terms.push(term);
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_words_as_people_do() {
        for (text, words, spaced_words, unspaced_chars) in [
            ("", 0, 0, 0),
            ("two  words\n", 2, 2, 0),
            ("it 's - fine .", 5, 3, 0),
            ("don't re-do 3.5 %", 4, 3, 0),
            ("今日は良い天気。", 8, 0, 7),
            ("使用 GPU 训练", 5, 1, 4),
            ("GPU训练", 3, 1, 2),
        ] {
            let size = size(text);
            assert_eq!(
                (size.words, size.spaced_words, size.unspaced_chars),
                (words, spaced_words, unspaced_chars),
                "{text:?}"
            );
            assert_eq!(size.chars, text.chars().count());
        }
    }

    #[test]
    fn terms_are_small_letters_and_single_unspaced_characters() {
        assert_eq!(terms("The F-1 score, Été 训练GPU!"), ["the", "f", "1", "score", "été", "训", "练", "gpu"]);
        assert!(terms(" .,- ").is_empty());
    }
}
