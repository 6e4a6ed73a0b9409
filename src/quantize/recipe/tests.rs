use super::*;

#[test]
fn shipped_recipes_are_read_and_written() {
    for (name, _) in RECIPES {
        let recipe = Recipe::named(name).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(Recipe::parse(&recipe.to_toml(), "written").unwrap(), recipe, "{}", recipe.to_toml());
    }
    let default = Recipe::default();
    assert_eq!((default.weights, default.embeddings), (Some(Scheme::INT8), Some(Scheme::INT8)));
    assert_eq!((default.activations, default.layers.len()), (Some(InputConfig::DYNAMIC), 0));
    assert_eq!(default.scheme, crate::runtime::SCHEME);
}

#[test]
fn scheme_names_are_read_and_written() {
    for name in [
        "float",
        "int8",
        "int4",
        "ternary",
        "binary",
        "int8-tensor",
        "int4-group32",
        "int4-asymmetric-group64",
        "int8-asymmetric-tensor",
        "binary-group128",
    ] {
        assert_eq!(scheme_name(parse_scheme(name).unwrap()), name);
    }
    for name in ["", "int3", "int4-32", "int4-group", "int4-group0", "ternary-asymmetric", "int8-tensor-group32"] {
        let error = parse_scheme(name).unwrap_err();
        assert!(error.contains(&format!("\"{name}\"")) && error.contains("allowed are"), "{error}");
    }
}

#[test]
fn tables_and_short_names_say_the_same() {
    let long = "scheme = \"x\"\n[weights]\nkind = \"int4\"\nsymmetric = false\ngranularity = \"group\"\n\
                group_size = 32\n[activations]\nkind = \"static\"\nsymmetric = true\n";
    let short = "scheme = \"x\"\nweights = \"int4-asymmetric-group32\"\nactivations = \"static-symmetric\"\n";
    assert_eq!(Recipe::parse(long, "long").unwrap(), Recipe::parse(short, "short").unwrap());
}

#[test]
fn the_last_rule_that_matches_holds() {
    let text = "scheme = \"x\"\nweights = \"int4\"\n\
                [[layer]]\nmatch = \"*attention*\"\nweights = \"int8\"\n\
                [[layer]]\nmatch = \"re:layer\\\\.[01]\\\\.\"\nactivations = \"static\"\n\
                [layers]\n\"layer.1.attention.key\" = \"float\"\n\"*word*\" = \"int4-group32\"\n";
    let mut recipe = Recipe::parse(text, "test").unwrap();
    let named = |recipe: &Recipe, module: &str| {
        let (weights, inputs) = recipe.linear(module);
        (scheme_name(weights), inputs.map(|i| i.dynamic))
    };
    assert_eq!(named(&recipe, "layer.2.ffn"), ("int4".into(), Some(true)));
    assert_eq!(named(&recipe, "layer.2.attention.key"), ("int8".into(), Some(true)));
    assert_eq!(named(&recipe, "layer.1.attention.query"), ("int8".into(), Some(false)));
    assert_eq!(named(&recipe, "layer.1.attention.key"), ("float".into(), None));
    assert_eq!(scheme_name(recipe.table("word_embeddings")), "int4-group32");
    assert_eq!(scheme_name(recipe.table("position_embeddings")), "int8");
    recipe.smoothing = Some(0.5);
    assert!(recipe.smooths("layer.2.ffn") && !recipe.smooths("layer.1.attention.key"), "float has no integers");
    assert!(recipe.in_words(&[]).activations.contains("strength 0.5"));
    let float = Recipe { smoothing: Some(0.5), ..Recipe::named("float").unwrap() };
    assert_eq!(float.in_words(&[]).activations, "float", "nothing is smoothed, and nothing says so");
    recipe.add_layer("*.key = ternary").unwrap();
    assert_eq!(named(&recipe, "layer.1.attention.key"), ("ternary".into(), Some(false)));
    assert!(recipe.add_layer("key").unwrap_err().to_string().contains("PATTERN=SCHEME"));
    assert_eq!(Recipe::parse(&recipe.to_toml(), "written").unwrap(), recipe);
}

#[test]
fn exceptions_that_mean_no_layer_are_told() {
    let place = super::super::Place::Matrix { layer: 0, index: 0 };
    let module = |name: &str| Module { name: name.into(), rows: 1, columns: 1, place, bias: None };
    let modules = [module("layer.0.query"), module("layer.0.key")];
    let mut recipe = Recipe::default();
    for rule in ["*.key=float", "*.kye=float", "re:.*layer\\.1=int4"] {
        recipe.add_layer(rule).unwrap();
    }
    assert_eq!(recipe.unmatched(&modules).collect::<Vec<_>>(), ["*.kye", "re:.*layer\\.1"]);
}

#[test]
fn stars_stand_for_any_text() {
    for (pattern, module, matched) in [
        ("a.b", "a.b", true),
        ("a.b", "a.bc", false),
        ("*", "anything", true),
        ("a*c", "abbc", true),
        ("a*c", "abbcd", false),
        ("*b*d", "abcbd", true),
        ("", "a", false),
    ] {
        assert_eq!(matches_glob(pattern, module), matched, "{pattern} {module}");
    }
}

#[test]
fn bad_recipes_are_refused_with_key_found_and_allowed() {
    let base = "scheme = \"x\"\nweights = \"int8\"\n";
    let cases = [
        ("weights = \"int8\"", vec!["\"scheme\" is missing"]),
        ("scheme = \"A b\"\nweights = \"int8\"", vec!["\"scheme\" is \"A b\"", "lower-case"]),
        ("scheme = \"x\"", vec!["\"weights\" is missing"]),
        ("scheme = \"x\"\nweights = 8", vec!["\"weights\" is 8", "name of a scheme"]),
        ("scheme = \"x\"\nweights = \"int3\"", vec!["\"weights\"", "found \"int3\"", "int4"]),
        ("scheme = \"x\"\n[weights]\nbits = 8", vec!["\"weights.bits\" is unknown", "kind, symmetric"]),
        ("scheme = \"x\"\n[weights]\nsymmetric = true", vec!["\"weights.kind\" is missing"]),
        ("scheme = \"x\"\n[weights]\nkind = \"int4\"\ngranularity = \"group\"", vec!["group_size\" is missing"]),
        ("scheme = \"x\"\n[weights]\nkind = \"int4\"\ngroup_size = 32", vec!["needs granularity \"group\""]),
        ("scheme = \"x\"\n[weights]\nkind = \"int4\"\ngranularity = \"row\"", vec!["\"row\"", "channel, tensor"]),
        ("scheme = \"x\"\n[weights]\nkind = \"ternary\"\nsymmetric = false", vec!["ternary-asymmetric"]),
        ("scheme = ", vec!["not TOML"]),
    ];
    for (text, parts) in cases.into_iter().chain([
        (&*format!("{base}colour = 1"), vec!["\"colour\" is unknown", "scheme, weights, embeddings"]),
        (&*format!("{base}activations = \"token\""), vec!["\"activations\"", "\"token\"", "dynamic, static"]),
        (&*format!("{base}smoothing = true"), vec!["\"smoothing\" is true", "a number from 0 to 1"]),
        (&*format!("{base}smoothing = 1.5"), vec!["\"smoothing\": found 1.5", "0 to 1"]),
        (&*format!("{base}layer = 3"), vec!["\"layer\" is 3", "[[layer]]"]),
        (&*format!("{base}[[layer]]\nweights = \"int4\""), vec!["\"layer[0].match\" is missing"]),
        (&*format!("{base}[[layer]]\nmatch = \"a\"\nbits = 4"), vec!["\"layer[0].bits\" is unknown"]),
        (&*format!("{base}[[layer]]\nmatch = \"re:(\""), vec!["\"re:(\" is no regular expression"]),
        (&*format!("{base}[layers]\n\"a\" = 4"), vec!["layers.\"a\"", "is 4"]),
    ]) {
        let error = Recipe::parse(text, "test").expect_err(text).to_string();
        assert!(error.starts_with("recipe test: "), "{error}");
        parts.iter().for_each(|part| assert!(error.contains(part), "{text:?}: {error:?} lacks {part:?}"));
    }
    let error = Recipe::named("w9").unwrap_err().to_string();
    assert!(error.contains("w8a8-static") && error.contains("no such recipe"), "{error}");
}
