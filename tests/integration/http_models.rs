//! The interface on the models that ship: real answers, and the same answer whatever else the server does.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use octet::config::Settings;
use octet::pipelines::{Loader, Model, Precision};
use serde_json::{Value, json};

use crate::support::{TestServer, kernels};

/// Loaded once: every server here shares them.
static MODELS: LazyLock<Vec<Arc<Model>>> = LazyLock::new(|| {
    let mut loader = Loader::new(kernels(), Precision::Int8);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let load = |id: &str| Arc::new(loader.load(id, &folder.join(id)).expect("a shipped model loads"));
    ["sentiment", "all-MiniLM-L6-v2"].map(load).into()
});

fn server() -> TestServer {
    let mut settings = Settings::default();
    settings.engine.threads = 2;
    settings.server.request_timeout_ms = 300_000;
    TestServer::start(MODELS.clone(), &settings)
}

fn ok(server: &TestServer, path: &str, body: &Value) -> Value {
    let answer = server.post(path, body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

const TEXT: &str = "The river rose two metres during the night. By morning the lower streets of the town were flooded. \
    Fire crews took forty people from their houses by boat. Nobody was hurt. The mayor thanked the crews at noon. \
    She said the new wall had held where it was finished. The wall was planned after the flood of 2013. A third of it \
    has not been built, because its owners went to court. The weather service expects more rain on Friday. Schools \
    stay closed until Monday.";

#[test]
fn sentiment_tells_praise_from_blame() {
    let server = server();
    let body = ok(
        &server,
        "/v1/classify",
        &json!({"input": [
            "What a wonderful film, I loved every minute of it!",
            "Terrible service, the worst meal of my life.",
        ]}),
    );
    assert_eq!(body["model"], "sentiment");
    assert_eq!(body["data"][0]["label"], "positive", "{body}");
    assert_eq!(body["data"][1]["label"], "negative", "{body}");
    let tei = ok(&server, "/predict", &json!({"inputs": "Terrible service, the worst meal of my life."}));
    assert_eq!(tei, body["data"][1]["scores"], "both routes give the same scores");
}

#[test]
fn intents_are_told_and_so_is_what_is_out_of_scope() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/intents");
    let intents = Loader::new(kernels(), Precision::Int8).load("intents", &folder).expect("a shipped model loads");
    let mut settings = Settings::default();
    settings.engine.threads = 1;
    let server = TestServer::start(vec![Arc::new(intents)], &settings);
    let cases = [
        ("turn on the kitchen lights", "HassTurnOn"),
        ("set a timer for ten minutes", "HassStartTimer"),
        ("what is the weather like tomorrow", "HassGetWeather"),
        ("add milk to my shopping list", "HassShoppingListAddItem"),
        ("the movie was boring and far too long", "out_of_scope"),
        ("my flight was late and nobody said sorry", "out_of_scope"),
    ];
    let input: Vec<&str> = cases.iter().map(|(text, _)| *text).collect();
    let body = ok(&server, "/v1/classify", &json!({ "input": input }));
    for (i, (text, label)) in cases.iter().enumerate() {
        assert_eq!(body["data"][i]["label"], *label, "{text}: {}", body["data"][i]);
    }
}

#[test]
fn close_meanings_have_close_vectors() {
    let server = server();
    let texts = ["A man is playing a guitar.", "Someone plays the guitar.", "The stock market fell on Monday."];
    let body = ok(&server, "/v1/embeddings", &json!({"input": texts}));
    assert_eq!(body["model"], "all-MiniLM-L6-v2");
    let vectors: Vec<Vec<f64>> = (0..3)
        .map(|i| body["data"][i]["embedding"].as_array().expect("a list").iter().filter_map(Value::as_f64).collect())
        .collect();
    assert!(vectors.iter().all(|v| v.len() == 384));
    let cosine = |a: usize, b: usize| vectors[a].iter().zip(&vectors[b]).map(|(x, y)| x * y).sum::<f64>();
    assert!((cosine(0, 0) - 1.0).abs() < 1e-5);
    assert!(cosine(0, 1) > 0.8 && cosine(0, 2) < 0.2, "{} {}", cosine(0, 1), cosine(0, 2));
}

#[test]
fn summaries_keep_every_budget() {
    let server = server();
    for budget in [json!({"sentences": 2}), json!({"max_words": 30}), json!({"max_chars": 120}), json!({"ratio": 0.25})]
    {
        let mut request = json!({"input": TEXT});
        request.as_object_mut().expect("an object").extend(budget.as_object().expect("an object").clone());
        let body = ok(&server, "/v1/summarize", &request);
        let item = &body["data"][0];
        let summary = item["summary"].as_str().expect("a summary");
        let count = item["sentences"].as_array().map_or(0, Vec::len);
        assert_eq!(item["num_sentences"], 10);
        assert!(count >= 1 && !summary.is_empty(), "{item}");
        assert!(count <= 2 || budget["sentences"].is_null(), "{item}");
        assert!(summary.split_whitespace().count() <= 30 || budget["max_words"].is_null(), "{item}");
        assert!(summary.chars().count() <= 120 || budget["max_chars"].is_null(), "{item}");
    }
    let score = |query: Option<&str>| {
        let request = json!({"input": TEXT, "sentences": 10, "query": query});
        let sentences = ok(&server, "/v1/summarize", &request)["data"][0]["sentences"].clone();
        let weather = sentences.as_array().expect("sentences").iter().find(|s| s["index"] == 8).expect("all of them");
        weather["score"].as_f64().expect("a score")
    };
    assert!(score(Some("When will it rain again?")) > score(None), "a query prefers sentences that are close to it");
}

#[test]
fn a_text_of_a_megabyte_is_summarized() {
    let server = server();
    let sentences =
        (0..).map(|i| format!("Report {i} says that station number {} measured {} degrees. ", i * 7 % 997, i % 41));
    let mut text = String::new();
    for sentence in sentences {
        if text.len() + sentence.len() > 1_000_000 {
            break;
        }
        text += &sentence;
    }
    let mut connection = server.connect();
    connection.set_patience(Duration::from_secs(300));
    let request = json!({"input": text, "sentences": 3}).to_string();
    let answer =
        connection.request("POST", "/v1/summarize", &[("content-type", "application/json")], request.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["data"][0]["sentences"].as_array().map(Vec::len), Some(3));
}

#[test]
fn an_answer_does_not_depend_on_what_else_is_asked() {
    let server = server();
    let texts: Vec<String> = TEXT.split(". ").map(String::from).collect();
    let requests = [
        ("/v1/classify", json!({"input": texts})),
        ("/predict", json!({"inputs": texts[0]})),
        ("/v1/embeddings", json!({"input": texts, "encoding_format": "base64"})),
        ("/v1/summarize", json!({"input": TEXT, "sentences": 3})),
    ];
    let answer = |path: &str, body: &Value| match path {
        "/predict" => ok(&server, path, body),
        _ => ok(&server, path, body)["data"].clone(),
    };
    let alone: Vec<Value> = requests.iter().map(|(path, body)| answer(path, body)).collect();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (requests, alone, answer) = (&requests, &alone, &answer);
            scope.spawn(move || {
                for round in 0..6 {
                    let which = (client + round) % requests.len();
                    let (path, body) = &requests[which];
                    assert_eq!(answer(path, body), alone[which], "{path}");
                }
            });
        }
    });
}

#[test]
fn long_texts_are_cut_or_refused_as_asked() {
    let server = server();
    let long = TEXT.repeat(20);
    let cut = ok(&server, "/v1/classify", &json!({"input": long}));
    assert_eq!(cut["data"][0]["truncated"], true);
    let max = server.get("/v1/models/sentiment").json()["max_tokens"].clone();
    assert_eq!(cut["data"][0]["tokens"], max);
    let refused = server.post("/v1/classify", &json!({"input": long, "truncate": false}));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
}
