//! Words that carry a period without ending a sentence, in English, German, French, Spanish, Portuguese and Italian.
//!
//! Lists are in small letters, without the last period, and sorted by bytes (a test holds them to it).

/// What a period after a listed word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abbreviation {
    /// Never ends a sentence: titles, `e.g.`, `z. B.`.
    Never,
    /// Belongs to a number that follows (`Fig. 3`, `Nr. 7`, `Jan. 5`), ends a sentence otherwise.
    BeforeNumber,
    /// Ends a sentence only when a word follows that often begins one: `Inc.`, `U.S.`.
    Usually,
    /// Ends a sentence when a capital letter follows: `etc.`.
    OftenLast,
}

/// The class of `word`, given without its last period.
pub(super) fn lookup(word: &str) -> Option<Abbreviation> {
    let word = word.to_lowercase();
    let has = |list: &[&str]| list.binary_search(&word.as_str()).is_ok();
    if has(NEVER) {
        Some(Abbreviation::Never)
    } else if has(BEFORE_NUMBER) {
        Some(Abbreviation::BeforeNumber)
    } else if has(USUALLY) {
        Some(Abbreviation::Usually)
    } else if has(OFTEN_LAST) {
        Some(Abbreviation::OftenLast)
    } else {
        None
    }
}

/// Whether `word` is one that often begins a sentence and is no name.
pub(super) fn starts_sentences(word: &str) -> bool {
    STARTERS.binary_search(&word.to_lowercase().as_str()).is_ok()
}

/// Whether `word` follows German ordinal numbers (`3. Oktober`, `19. Jahrhundert`).
pub(super) fn follows_ordinal(word: &str) -> bool {
    AFTER_ORDINAL.binary_search(&word.to_lowercase().as_str()).is_ok()
}

/// Titles, and abbreviations that explain what follows.
#[rustfmt::skip]
const NEVER: &[&str] = &[
    "ad.es", "adm", "ald", "approx", "aprox", "atty", "avv", "brig", "bspw", "bzw", "c.-à-d", "c.à.d", "capt",
    "cf", "cmdr", "cpl", "d.h", "dipl", "dipl-ing", "dott", "dott.ssa", "dr", "drs", "drª", "dña", "e.g", "eg",
    "ej", "engª", "esq", "etal", "evtl", "excl", "exkl", "exma", "exmo", "frl", "ggf", "hr", "hrn", "i.d.r",
    "i.e", "ibid", "ie", "ilmo", "incl", "inkl", "insb", "insp", "lt", "m.e", "m.m", "messrs", "mgr", "mlle",
    "mlles", "mme", "mmes", "mr", "mrs", "o.ä", "op.cit", "p.ej", "p.es", "p.ex", "par.ex", "prof", "profs",
    "profª", "pvt", "resp", "rev", "s.o", "s.u", "sr", "sra", "srs", "srta", "supt", "u.a", "u.ä", "ud", "uds",
    "v.a", "vd", "vgl", "viz", "vs", "z.b", "z.t", "z.zt", "zzgl",
];

/// References, and months and weekdays.
#[rustfmt::skip]
const BEFORE_NUMBER: &[&str] = &[
    "abb", "abr", "abs", "ago", "anm", "app", "apr", "art", "arts", "aufl", "aug", "avr", "bd", "bde", "cap",
    "caps", "ch", "chap", "dec", "dez", "dic", "déc", "ed", "eds", "ene", "eq", "eqs", "est", "ex", "ext",
    "feb", "fev", "fig", "figs", "fri", "févr", "gen", "giu", "jan", "janv", "juil", "jul", "jun", "kap", "lit",
    "lug", "lám", "mag", "mai", "mar", "max", "min", "mon", "mär", "no", "nos", "nov", "nr", "nrs", "num", "nº",
    "núm", "oct", "okt", "ott", "out", "pag", "pagg", "par", "para", "pp", "pt", "pág", "págs", "ref", "refs",
    "sat", "sec", "sect", "sep", "sept", "set", "sun", "tab", "tav", "tbl", "tel", "thu", "thur", "thurs",
    "tue", "tues", "ver", "vol", "vols", "wed", "ziff",
];

/// Companies, places, degrees, times, units.
#[rustfmt::skip]
const USUALLY: &[&str] = &[
    "a.d", "a.m", "al", "assn", "av", "avda", "ave", "b.a", "b.c", "b.c.e", "b.sc", "bes", "bhf", "blvd",
    "boul", "bros", "c.e", "c.v", "ca", "cia", "cie", "co", "col", "corp", "cía", "d.c", "dept", "depto",
    "dpto", "dra", "e.u", "eng", "fasc", "fr", "ft", "geb", "gest", "gmbh", "gov", "gral", "hbf", "hnos", "hon",
    "hwy", "inc", "ing", "inst", "intl", "jr", "l.a", "ll.b", "ll.m", "llc", "llp", "ltd", "ltda", "m.a", "m.d",
    "m.sc", "maj", "mio", "mrd", "ms", "mss", "mt", "n.y", "natl", "orig", "p.m", "ph.d", "pl", "plc", "pres",
    "rd", "rep", "s.a", "s.l", "s.p.a", "s.r.l", "sen", "sgt", "sig", "sigg", "soc", "sog", "st", "ste", "str",
    "tsd", "u.k", "u.n", "u.s", "u.s.a", "univ", "verh", "éd",
];

/// Ends of enumerations.
#[rustfmt::skip]
const OFTEN_LAST: &[&str] = &[
    "ecc", "eccetera", "etc", "etcétera", "u.s.w", "u.v.m", "usf", "usw",
];

/// Articles, pronouns, conjunctions and prepositions that begin sentences; none is a common part of names.
#[rustfmt::skip]
const STARTERS: &[&str] = &[
    "aber", "after", "als", "although", "am", "anche", "and", "ao", "après", "as", "at", "au", "auch", "auf",
    "aux", "because", "before", "bei", "both", "but", "ce", "ces", "cet", "cette", "como", "con", "cuando",
    "dann", "dans", "das", "dem", "den", "depuis", "der", "des", "desde", "die", "dies", "diese", "dieser",
    "dieses", "doch", "dopo", "each", "ein", "eine", "einen", "einer", "ela", "elas", "ele", "eles", "ella",
    "ellas", "elle", "elles", "ellos", "em", "en", "er", "es", "essa", "esse", "esta", "estas", "este", "estos",
    "et", "foi", "für", "gli", "he", "her", "his", "how", "however", "i", "ich", "if", "il", "ils", "im", "in",
    "isso", "it", "its", "je", "las", "les", "los", "ma", "mais", "many", "mas", "mit", "most", "my", "na",
    "nach", "nas", "nel", "nella", "no", "nos", "nous", "now", "on", "os", "our", "par", "para", "per", "pero",
    "por", "pour", "questa", "questi", "questo", "se", "secondo", "según", "seit", "selon", "she", "sie",
    "since", "some", "su", "such", "sur", "sus", "también", "that", "the", "their", "then", "there", "these",
    "they", "this", "those", "thus", "um", "uma", "un", "una", "und", "une", "uno", "unter", "vous", "was",
    "we", "weil", "wenn", "wer", "what", "when", "where", "while", "who", "why", "wie", "wir", "wo", "y", "yes",
    "you", "your", "è",
];

/// Nouns that follow a German ordinal number.
#[rustfmt::skip]
const AFTER_ORDINAL: &[&str] = &[
    "apr", "april", "auflage", "aug", "august", "bundesliga", "dez", "dezember", "feb", "feber", "februar",
    "jahrhundert", "jahrhunderte", "jahrhunderts", "jahrtausend", "jan", "januar", "jh", "jhd", "jul", "juli",
    "jun", "juni", "jänner", "kapitel", "klasse", "liga", "mai", "mal", "mär", "märz", "nov", "november", "okt",
    "oktober", "platz", "rang", "runde", "semester", "sep", "sept", "september", "spieltag", "stock", "tag",
    "weltkrieg", "weltkriegs", "woche",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_small_and_disjoint() {
        let classes = [NEVER, BEFORE_NUMBER, USUALLY, OFTEN_LAST];
        for list in classes.into_iter().chain([STARTERS, AFTER_ORDINAL]) {
            assert!(list.is_sorted_by(|a, b| a < b), "not sorted or twice in {list:?}");
            assert!(list.iter().all(|w| **w == w.to_lowercase() && !w.ends_with('.')));
        }
        for (i, list) in classes.iter().enumerate() {
            for other in &classes[i + 1..] {
                let both: Vec<_> = list.iter().filter(|w| other.contains(w)).collect();
                assert!(both.is_empty(), "in two classes: {both:?}");
            }
        }
    }

    #[test]
    fn lookup_ignores_case() {
        assert_eq!(lookup("Dr"), Some(Abbreviation::Never));
        assert_eq!(lookup("z.B"), Some(Abbreviation::Never));
        assert_eq!(lookup("NO"), Some(Abbreviation::BeforeNumber));
        assert_eq!(lookup("sentence"), None);
        assert!(starts_sentences("The") && !starts_sentences("Smith"));
    }
}
