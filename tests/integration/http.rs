//! The interface over real sockets, with small models made in memory: every row of the error table, every limit, and
//! the shapes that other servers' clients expect.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use octet::config::Settings;
use octet::server::ROUTES;
use serde_json::{Value, json};

use crate::fake_model::{self, Gate, MAX_TOKENS};
use crate::support::{Connection, Load, Response, TestServer, wait_until};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Stands in every request that must fail, where the client's own text stands; no error may repeat it.
const MARKER: &str = "zqxmarker";

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.engine.threads = 1;
    settings
}

fn serve(change: impl FnOnce(&mut Settings)) -> (TestServer, Arc<Gate>) {
    let mut settings = settings();
    change(&mut settings);
    let (models, gate) = fake_model::models();
    (TestServer::start(models, &settings), gate)
}

fn server() -> TestServer {
    serve(|_| {}).0
}

/// The server still answers.
fn assert_alive(server: &TestServer) {
    let answer = server.post("/v1/classify", &json!({"input": "good"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Which shape an error has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Native,
    OpenAi,
}

/// Checks status, shape, type or code, and request id of an error; returns the message.
#[track_caller]
fn assert_error(answer: &Response, shape: Shape, status: u16, name: &str) -> String {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let id = answer.header("x-request-id").expect("every answer has an id");
    let body = answer.json();
    let message = match shape {
        Shape::Native => {
            assert_eq!(body["error_type"], name, "{body}");
            assert_eq!(body["request_id"], id, "{body}");
            body["error"].as_str()
        }
        Shape::OpenAi => {
            assert_eq!(body["error"]["code"], name, "{body}");
            let kind = match status {
                429 => "rate_limit_error",
                500.. => "server_error",
                _ => "invalid_request_error",
            };
            assert_eq!(body["error"]["type"], kind, "{body}");
            assert!(body["error"].as_object().is_some_and(|e| e.contains_key("param")), "{body}");
            body["error"]["message"].as_str()
        }
    };
    let message = message.expect("an error has a message").to_owned();
    assert!(!answer.text().contains(MARKER), "the client's text is repeated: {message}");
    assert!(!message.is_empty() && !message.ends_with('.'), "{message}");
    message
}

/// One request that must fail.
struct Case {
    what: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: Vec<u8>,
    status: u16,
    /// `error_type`, or under `/v1` the code.
    name: &'static str,
    /// Under `/v1`: the field at fault.
    param: Option<&'static str>,
    /// Outside `/v1`: the first bad input.
    index: Option<usize>,
}

fn case(what: &'static str, path: &'static str, body: impl Into<Vec<u8>>, status: u16, name: &'static str) -> Case {
    Case { what, path, headers: &[JSON], body: body.into(), status, name, param: None, index: None }
}

impl Case {
    fn param(self, param: &'static str) -> Self {
        Case { param: Some(param), ..self }
    }

    fn index(self, index: usize) -> Self {
        Case { index: Some(index), ..self }
    }

    fn headers(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        Case { headers, ..self }
    }
}

fn bodies_that_are_not_json() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("nothing", b"".to_vec()),
        ("half an object", br#"{"input": "zqxmarker""#.to_vec()),
        ("two objects", br#"{"input": "a"} {"input": "zqxmarker"}"#.to_vec()),
        ("invalid utf-8", b"{\"input\": \"zqxmarker \xff\xfe\"}".to_vec()),
        ("invalid utf-8 in an unknown field", b"{\"input\": \"a\", \"other\": \"\xc3\x28\"}".to_vec()),
        ("lone surrogate", br#"{"input": "zqxmarker \ud800"}"#.to_vec()),
        ("lone surrogate in an unknown field", br#"{"input": "a", "other": "\udc00"}"#.to_vec()),
        ("NaN", br#"{"input": "zqxmarker", "threshold": NaN}"#.to_vec()),
        ("infinity", br#"{"input": "zqxmarker", "threshold": -Infinity}"#.to_vec()),
        ("too large a number", br#"{"input": "zqxmarker", "threshold": 1e400}"#.to_vec()),
        ("a key twice", br#"{"input": "zqxmarker", "input": "b"}"#.to_vec()),
        ("an unknown key twice", br#"{"input": "zqxmarker", "x": {"zqxmarker": 1, "zqxmarker": 2}}"#.to_vec()),
        ("control character", b"{\"input\": \"zqxmarker \x01\"}".to_vec()),
        ("nesting bomb", "[".repeat(100_000).into_bytes()),
        ("nesting bomb of objects", "{\"a\":".repeat(100_000).into_bytes()),
        ("nesting bomb in a field", format!("{{\"input\": {}", "[".repeat(100_000)).into_bytes()),
    ]
}

#[test]
fn every_bad_request_gets_its_row_and_the_server_goes_on() {
    let (server, _gate) = serve(|settings| settings.server.max_inputs = 4);
    let series_at_start = series(&server);
    let long = "good ".repeat(MAX_TOKENS);
    let mut cases = Vec::new();
    for (what, body) in bodies_that_are_not_json() {
        cases.push(case(what, "/predict", body.clone(), 400, "Validation"));
        cases.push(case(what, "/v1/classify", body.clone(), 400, "invalid_json"));
        cases.push(case(what, "/v1/summarize", body.clone(), 400, "invalid_json"));
        cases.push(case(what, "/v1/feedback", body.clone(), 400, "invalid_json"));
        cases.push(case(what, "/v1/embeddings", body, 400, "invalid_json"));
    }
    #[rustfmt::skip]
    cases.extend([
        // content types
        case("web page", "/predict", "inputs=a", 415, "UnsupportedMediaType").headers(&[("content-type", "text/html")]),
        case("plain text", "/v1/classify", "a", 415, "unsupported_media_type").headers(&[("content-type", "text/plain")]),
        case("compressed", "/v1/classify", "a", 415, "unsupported_media_type")
            .headers(&[JSON, ("content-encoding", "gzip")]),
        // types and missing fields
        case("a number", "/predict", r#"{"inputs": 5}"#, 422, "Validation"),
        case("null", "/predict", r#"{"inputs": null}"#, 422, "Validation"),
        case("nothing given", "/predict", "{}", 422, "Validation"),
        case("a list as body", "/predict", r#"["zqxmarker"]"#, 422, "Validation"),
        case("a number in a batch", "/predict", r#"{"inputs": [["a"], 7]}"#, 422, "Validation").index(1),
        case("object without text", "/predict", r#"{"inputs": [["a"], {"txt": "zqxmarker"}]}"#, 422, "Validation").index(1),
        case("a number", "/v1/classify", r#"{"input": 5}"#, 400, "invalid_value").param("input"),
        case("nothing given", "/v1/classify", "{}", 400, "invalid_value").param("input"),
        case("fields by position", "/v1/classify", r#"["sentiment", "zqxmarker", null, null, null, null, null, null]"#, 400,
            "invalid_value"),
        case("a string as body", "/v1/classify", r#""zqxmarker""#, 400, "invalid_value"),
        case("a number in a batch", "/v1/classify", r#"{"input": ["a", 7]}"#, 400, "invalid_value").param("input[1]"),
        case("lists in a batch", "/v1/classify", r#"{"input": [["zqxmarker"]]}"#, 400, "invalid_value").param("input[0]"),
        case("a text that is a number", "/v1/classify", r#"{"input": [{"text": 1}]}"#, 400, "invalid_value")
            .param("input[0].text"),
        case("token ids", "/v1/embeddings", r#"{"input": [1, 2]}"#, 400, "invalid_value").param("input[0]"),
        case("unknown format", "/v1/embeddings", r#"{"input": "a", "encoding_format": "zqxmarker"}"#, 400, "invalid_value")
            .param("encoding_format"),
        case("unknown order", "/v1/summarize", r#"{"input": "a", "order": "zqxmarker"}"#, 400, "invalid_value")
            .param("order"),
        case("a string for a number", "/v1/summarize", r#"{"input": "a", "sentences": "zqxmarker"}"#, 400, "invalid_value")
            .param("sentences"),
        case("a negative number", "/v1/summarize", r#"{"input": "a", "sentences": -1}"#, 400, "invalid_value")
            .param("sentences"),
        // the meaning of a flat list
        case("one string in a list", "/predict", r#"{"inputs": ["zqxmarker"]}"#, 422, "Validation"),
        case("three strings", "/predict", r#"{"inputs": ["a", "b", "zqxmarker"]}"#, 422, "Validation"),
        case("strings and lists", "/predict", r#"{"inputs": ["a", ["zqxmarker"]]}"#, 422, "Validation"),
        case("three in a pair", "/predict", r#"{"inputs": [["a"], ["a", "b", "zqxmarker"]]}"#, 422, "Validation").index(1),
        case("nothing in a pair", "/predict", r#"{"inputs": [["a"], []]}"#, 422, "Validation").index(1),
        case("lists too deep", "/predict", r#"{"inputs": [[["zqxmarker"]]]}"#, 422, "Validation").index(0),
        // empty
        case("empty list", "/predict", r#"{"inputs": []}"#, 400, "Empty"),
        case("empty text", "/predict", r#"{"inputs": ""}"#, 400, "Empty").index(0),
        case("white space", "/predict", r#"{"inputs": [["a"], [" \n"]]}"#, 400, "Empty").index(1),
        case("empty list", "/v1/classify", r#"{"input": []}"#, 400, "empty_input").param("input"),
        case("empty text", "/v1/classify", r#"{"input": ["a", ""]}"#, 400, "empty_input").param("input[1]"),
        case("empty list", "/v1/embeddings", r#"{"input": []}"#, 400, "empty_input"),
        case("empty text", "/v1/embeddings", r#"{"input": ""}"#, 400, "empty_input"),
        case("empty list", "/v1/summarize", r#"{"input": []}"#, 400, "empty_input"),
        case("empty text", "/v1/summarize", r#"{"input": ["good. bad.", ""]}"#, 400, "empty_input").param("input[1]"),
        // options out of range
        case("top_k", "/predict", r#"{"inputs": "zqxmarker", "top_k": 0}"#, 422, "Validation"),
        case("threshold", "/predict", r#"{"inputs": "zqxmarker", "threshold": 1.5}"#, 422, "Validation"),
        case("function", "/predict", r#"{"inputs": "a", "function_to_apply": "zqxmarker"}"#, 422, "Validation"),
        case("contradiction", "/predict", r#"{"inputs": "a", "raw_scores": true, "function_to_apply": "softmax"}"#, 422, "Validation"),
        case("left", "/predict", r#"{"inputs": "a", "truncation_direction": "left"}"#, 422, "Validation"),
        case("top_k", "/v1/classify", r#"{"input": "zqxmarker", "top_k": 0}"#, 400, "invalid_value").param("top_k"),
        case("threshold", "/v1/classify", r#"{"input": "zqxmarker", "threshold": -0.1}"#, 400, "invalid_value")
            .param("threshold"),
        case("threshold", "/v1/classify", r#"{"input": "zqxmarker", "threshold": 1e300}"#, 400, "invalid_value")
            .param("threshold"),
        case("fraction", "/v1/classify", r#"{"input": "zqxmarker", "top_k": 1.5}"#, 400, "invalid_value").param("top_k"),
        case("dimensions", "/v1/embeddings", r#"{"input": "zqxmarker", "dimensions": 5}"#, 400, "invalid_value")
            .param("dimensions"),
        case("no dimensions", "/v1/embeddings", r#"{"input": "zqxmarker", "dimensions": 0}"#, 400, "invalid_value")
            .param("dimensions"),
        case("diversity", "/v1/summarize", r#"{"input": "good. bad.", "diversity": 2}"#, 400, "invalid_value")
            .param("diversity"),
        case("ratio", "/v1/summarize", r#"{"input": "good. bad.", "ratio": 0}"#, 400, "invalid_value").param("ratio"),
        // timeouts that are none
        case("timeout 0", "/predict", r#"{"inputs": "a", "timeout_ms": 0}"#, 400, "Validation"),
        case("timeout 0", "/v1/classify", r#"{"input": "a", "timeout_ms": 0}"#, 400, "invalid_value").param("timeout_ms"),
        case("timeout header 0", "/v1/classify", r#"{"input": "a"}"#, 400, "invalid_value").param("X-Request-Timeout-Ms")
            .headers(&[JSON, ("x-request-timeout-ms", "0")]),
        case("timeout header", "/predict", r#"{"inputs": "a"}"#, 400, "Validation")
            .headers(&[JSON, ("x-request-timeout-ms", "zqxmarker")]),
        // limits of the model and the server
        case("too long", "/predict", json!({"inputs": [["a"], [&long]], "truncate": false}).to_string(), 422, "Validation")
            .index(1),
        case("too long", "/v1/classify", json!({"input": ["a", &long], "truncate": false}).to_string(), 400,
            "context_length_exceeded").param("input[1]"),
        case("too long", "/v1/embeddings", json!({"input": &long, "truncate": false}).to_string(), 400,
            "context_length_exceeded").param("input[0]"),
        case("too many", "/predict", json!({"inputs": [["a"], ["b"], ["c"], ["d"], ["e"]]}).to_string(), 422, "Validation"),
        case("too many", "/v1/classify", json!({"input": ["a", "b", "c", "d", "e"]}).to_string(), 400, "too_many_inputs")
            .param("input"),
        // models and tasks
        case("unknown model", "/predict", r#"{"inputs": "a", "model": "zqxmarker"}"#, 404, "ModelNotFound"),
        case("unknown model", "/v1/classify", r#"{"input": "a", "model": "zqxmarker"}"#, 404, "model_not_found").param("model"),
        case("wrong task", "/predict", r#"{"inputs": "a", "model": "org/vectors"}"#, 422, "UnsupportedTask"),
        case("wrong task", "/v1/classify", r#"{"input": "a", "model": "org/vectors"}"#, 400, "unsupported_task").param("model"),
        case("wrong task", "/v1/embeddings", r#"{"input": "a", "model": "sentiment"}"#, 400, "unsupported_task"),
        case("wrong task", "/v1/summarize", r#"{"input": "a", "model": "sentiment"}"#, 400, "unsupported_task"),
        case("explain", "/v1/classify", r#"{"input": "a", "explain": true}"#, 400, "unsupported_task").param("explain"),
        case("abstractive", "/v1/summarize", r#"{"input": "a", "mode": "abstractive"}"#, 400, "unsupported_task").param("mode"),
        // routes
        case("unknown route", "/zqxmarker", "{}", 404, "NotFound"),
        case("unknown route", "/v1/zqxmarker", "{}", 404, "not_found"),
        case("wrong method", "/readyz", "{}", 405, "NotFound"),
        case("wrong method", "/v1/models", "{}", 405, "method_not_allowed"),
        case("wrong method", "/v1/models/sentiment", "{}", 405, "method_not_allowed"),
        // our own faults
        case("panic", "/predict", r#"{"inputs": "zqxmarker panic"}"#, 500, "Backend"),
        case("panic", "/v1/classify", r#"{"input": "zqxmarker panic"}"#, 500, "server_error"),
        case("not finite", "/predict", r#"{"inputs": "zqxmarker nan"}"#, 500, "Backend").index(0),
        case("not finite", "/v1/embeddings", r#"{"input": "zqxmarker nan"}"#, 500, "server_error"),
    ]);
    for Case { what, path, headers, body, status, name, param, index } in cases {
        let shape = if path.starts_with("/v1/") { Shape::OpenAi } else { Shape::Native };
        let context = format!("{what} at {path}");
        let mut connection = server.connect();
        let answer = connection.request("POST", path, headers, &body);
        assert_eq!(answer.status, status, "{context}: {}", answer.text());
        assert_error(&answer, shape, status, name);
        if let Some(param) = param {
            assert_eq!(answer.json()["error"]["param"], param, "{context}: {}", answer.text());
        }
        if shape == Shape::Native {
            assert_eq!(answer.json().get("index").cloned(), index.map(Value::from), "{context}: {}", answer.text());
        }
        assert_eq!(connection.request("GET", "/livez", &[], b"").status, 200, "{context}: the connection goes on");
        assert_alive(&server);
    }
    assert_error(&server.get("/v1/models/nope"), Shape::OpenAi, 404, "model_not_found");
    assert_error(&server.get("/v1/classify"), Shape::OpenAi, 405, "method_not_allowed");
    assert_eq!(series(&server), series_at_start, "every series existed at the start");
}

#[test]
fn errors_say_what_to_do() {
    let server = server();
    let message = |path: &str, body: Value| server.post(path, &body).text().to_owned();
    let told = message("/predict", json!({"inputs": ["a", "b", "c"]}));
    assert!(told.contains(r#"[[\"a\"], [\"b\"], [\"c\"]]"#), "{told}");
    let told = message("/v1/classify", json!({"input": "a", "model": "nope"}));
    assert!(told.contains("sentiment") && told.contains("org/vectors"), "{told}");
    let told = message("/v1/summarize", json!({"input": "a", "mode": "abstractive"}));
    assert!(told.contains("sequence-to-sequence"), "{told}");
    let told = message("/v1/classify", json!({"input": "a", "activation": "x"}));
    assert!(told.contains(r#"\"softmax\", \"sigmoid\", \"none\""#), "{told}");
    let answer = server.connect().request("PUT", "/v1/classify", &[JSON], b"{}");
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = server.connect().request("DELETE", "/readyz", &[], b"");
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
}

#[test]
fn strict_mode_refuses_unknown_fields_and_only_those() {
    let (server, _gate) = serve(|settings| settings.server.strict = true);
    let answer = server.post("/v1/classify", &json!({"input": "good", "topk": 3}));
    assert_error(&answer, Shape::OpenAi, 400, "invalid_value");
    assert_eq!(answer.json()["error"]["param"], "topk");
    let answer = server.post("/v1/classify", &json!({"input": [{"text": "good", "pair": "x"}]}));
    assert_eq!(answer.json()["error"]["param"], "input[0].pair");
    let answer = server.post("/predict", &json!({"inputs": "good", "zqx marker": 1}));
    assert_error(&answer, Shape::Native, 422, "Validation");
    let everything = json!({
        "input": {"text": "good", "text_pair": "bad"}, "model": "sentiment", "top_k": 1, "threshold": 0.5,
        "activation": "sigmoid", "explain": false, "truncate": true, "timeout_ms": 20_000,
    });
    assert_eq!(server.post("/v1/classify", &everything).status, 200);
    let lenient = self::server();
    assert_eq!(lenient.post("/v1/classify", &json!({"input": "good", "topk": 3})).status, 200);
}

#[test]
fn with_a_key_set_only_those_who_send_it_are_served() {
    let (server, _gate) = serve(|settings| settings.server.api_key = "sesame".into());
    let post =
        |path: &str, body: &[u8], headers: &[(&str, &str)]| server.connect().request("POST", path, headers, body);
    for (path, body) in [("/v1/classify", br#"{"input": "good"}"#.as_slice()), ("/predict", br#"{"inputs": "good"}"#)] {
        for headers in [&[][..], &[("authorization", "Bearer sesam")], &[("authorization", "Basic sesame")]] {
            let refused = post(path, body, headers);
            assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")), "{path}");
            assert!(refused.header("x-request-id").is_some() && !refused.text().contains("sesam"));
            let error = refused.json();
            let code = if path == "/predict" { &error["error_type"] } else { &error["error"]["code"] };
            assert!(["Unauthorized", "invalid_api_key"].contains(&code.as_str().unwrap()), "{error}");
        }
        assert_eq!(post(path, body, &[("authorization", "Bearer sesame")]).status, 200, "{path}");
    }
    assert_eq!(server.get("/v1/models").status, 401);
    for open in ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json"] {
        assert_eq!(server.get(open).status, 200, "{open}");
    }
    let counted = server.get("/metrics");
    let refused = counted.text().lines().filter(|l| l.starts_with("octet_rejected_total") && l.contains("\"auth\""));
    let total: u64 = refused.map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(total, 6, "every refused task is counted with its reason");
}

#[test]
fn a_missing_content_type_and_the_one_of_curl_are_json() {
    let server = server();
    let answer = server.connect().request("POST", "/v1/classify", &[], br#"{"input": "good"}"#);
    assert_eq!(answer.status, 200);
    let of_curl = "application/x-www-form-urlencoded";
    for accepted in [of_curl, "application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"] {
        let headers = [("content-type", accepted)];
        assert_eq!(server.connect().request("POST", "/predict", &headers, br#"{"inputs": "a"}"#).status, 200);
    }
}

#[test]
fn request_ids_come_back_or_are_made() {
    let server = server();
    let mut connection = server.connect();
    let mut ask = |id: &str| {
        let answer = connection.request("POST", "/predict", &[JSON, ("x-request-id", id)], b"{}");
        assert_eq!(answer.json()["request_id"], answer.header("x-request-id").expect("an id"));
        answer.header("x-request-id").expect("an id").to_owned()
    };
    let longest = "x".repeat(128);
    for good in ["a", "0b5f-1/\"'{}", longest.as_str()] {
        assert_eq!(ask(good), good);
    }
    let mut made: Vec<String> = ["", "two words", "caf\u{e9}", &"x".repeat(129)].iter().map(|id| ask(id)).collect();
    assert!(made.iter().all(|id| id.len() == 32), "{made:?}");
    made.extend((0..100).map(|_| server.get("/livez").header("x-request-id").expect("an id").to_owned()));
    let count = made.len();
    made.sort();
    made.dedup();
    assert_eq!(made.len(), count, "made ids are unique");
    let answer =
        server.connect().request("POST", "/v1/classify", &[JSON, ("x-request-id", "mine")], br#"{"input": "a"}"#);
    assert_eq!(answer.json()["id"], "cls-mine");
}

#[test]
fn classify_answers_in_its_shape() {
    let server = server();
    let one = server.post("/v1/classify", &json!({"input": "good"}));
    assert_eq!(one.status, 200, "{}", one.text());
    let body = one.json();
    assert_eq!(body["object"], "list");
    assert_eq!(body["model"], "sentiment");
    assert_eq!(body["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    assert!(body["created"].as_u64().is_some_and(|t| t > 1_700_000_000));
    let item = &body["data"][0];
    assert_eq!((&item["index"], &item["num_classes"], &item["tokens"]), (&json!(0), &json!(3), &json!(3)));
    assert_eq!((&item["truncated"], &item["scores"][0]["label"]), (&json!(false), &item["label"]));
    let scores: Vec<f64> =
        item["scores"].as_array().expect("scores").iter().map(|s| s["score"].as_f64().expect("a number")).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && (scores.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{scores:?}");

    let batch = server.post("/v1/classify", &json!({"input": ["bad", "good", {"text": "good", "text_pair": "bad"}]}));
    let data = batch.json()["data"].clone();
    assert_eq!(data[1]["scores"], item["scores"], "a text means the same alone and in a batch");
    assert_eq!(data[2]["tokens"], 5);
    assert_eq!(data.as_array().map(Vec::len), Some(3));

    let cut = server.post("/v1/classify", &json!({"input": "good ".repeat(99), "top_k": 2, "activation": "none"}));
    assert_eq!(cut.json()["data"][0]["truncated"], true);
    assert_eq!(cut.json()["data"][0]["tokens"], MAX_TOKENS);
    assert_eq!(cut.json()["data"][0]["scores"].as_array().map(Vec::len), Some(2));
    assert_eq!(cut.header("x-truncated"), Some("1"));
}

#[test]
fn answers_carry_their_figures_in_headers() {
    let server = server();
    let body = json!({"inputs": [["good"], ["häßlich bad"]]});
    let answer = server.post("/predict", &body);
    let header = |name: &str| answer.header(name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(header("x-compute-type"), "cpu-int8");
    assert_eq!(header("x-compute-characters"), "15");
    assert_eq!(header("x-compute-tokens"), "7");
    assert_eq!(header("x-model"), "sentiment");
    assert_eq!(header("x-model-version"), "0123456789ab");
    assert_eq!(header("x-truncated"), "0");
    assert_eq!(header("x-batch-size"), "2");
    for name in ["x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time"] {
        assert!(header(name).parse::<u64>().is_ok(), "{name}: {}", header(name));
    }
    let timing = header("server-timing");
    let stages: Vec<_> = timing.split(", ").filter_map(|entry| entry.split_once(";dur=")).collect();
    assert_eq!(stages.iter().map(|s| s.0).collect::<Vec<_>>(), ["tokenize", "queue", "compute", "postprocess"]);
    assert!(stages.iter().all(|(_, millis)| millis.parse::<f64>().is_ok_and(|m| m >= 0.0)), "{timing}");
}

#[test]
fn predict_reads_lists_as_text_embeddings_inference_does() {
    let server = server();
    let ask = |inputs: Value| {
        let answer = server.post("/predict", &json!({"inputs": inputs}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        (answer.json(), answer.header("x-compute-tokens").expect("a count").to_owned())
    };
    let (one, tokens) = ask(json!("good"));
    assert_eq!((one.as_array().map(Vec::len), tokens.as_str()), (Some(3), "3"), "one text: a flat list, all labels");
    let (pair, tokens) = ask(json!(["good", "bad"]));
    assert_eq!((pair[0]["label"].is_string(), tokens.as_str()), (true, "5"), "two strings are one pair");
    let (batch, tokens) = ask(json!([["good"], ["bad"]]));
    assert_eq!((batch.as_array().map(Vec::len), tokens.as_str()), (Some(2), "6"), "a list of lists is a batch");
    assert_eq!(batch[0], one);
    let (pairs, tokens) = ask(json!([["good", "bad"], ["bad", "good"]]));
    assert_eq!((&pairs[0], tokens.as_str()), (&pair, "10"));
    let (object, _) = ask(json!({"text": "good", "text_pair": "bad"}));
    assert_eq!(object, pair, "an object is one input");
    let (objects, _) = ask(json!([{"text": "good"}, ["good", "bad"], {"text": "good", "text_pair": "bad"}]));
    assert_eq!(objects, json!([one, pair, pair]), "a list with an object is a batch");
    let (single, _) = ask(json!([["good"]]));
    assert_eq!(single, json!([one]), "a batch of one is a list of one list");

    let cut = server.post("/predict", &json!({"inputs": "good", "top_k": 1})).json();
    assert_eq!(cut.as_array().map(Vec::len), Some(1));
    let raw = server.post("/predict", &json!({"inputs": "good", "raw_scores": true})).json();
    let none = server.post("/predict", &json!({"inputs": "good", "function_to_apply": "none"})).json();
    assert_eq!(raw, none);
    assert_ne!(raw, one);
    let tei = json!({"inputs": "good", "truncate": null, "truncation_direction": "Right", "raw_scores": false});
    assert_eq!(server.post("/predict", &tei).json(), one, "a client of the original may send every field");
}

#[test]
fn embeddings_as_base64_are_the_same_floats() {
    let server = server();
    let floats = server.post("/v1/embeddings", &json!({"input": ["good", "bad fine"]}));
    assert_eq!(floats.status, 200, "{}", floats.text());
    let encoded = server.post("/v1/embeddings", &json!({"input": ["good", "bad fine"], "encoding_format": "base64"}));
    let (floats, encoded) = (floats.json(), encoded.json());
    assert_eq!(floats["object"], "list");
    assert_eq!(floats["model"], "org/vectors");
    assert_eq!(floats["usage"], json!({"prompt_tokens": 7, "total_tokens": 7}));
    for index in 0..2 {
        assert_eq!(floats["data"][index]["object"], "embedding");
        assert_eq!(floats["data"][index]["index"], index);
        let listed = vector(&floats["data"][index]["embedding"]);
        let text = encoded["data"][index]["embedding"].as_str().expect("base64 is a string");
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        let decoded: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
        assert_eq!(listed, decoded);
        assert!((listed.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
    }
    let short = server.post("/v1/embeddings", &json!({"input": "good", "dimensions": 2, "normalize": false})).json();
    assert_eq!(short["data"][0]["embedding"].as_array().map(Vec::len), Some(2));
}

fn vector(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
}

#[test]
fn summaries_quote_their_sentences_by_characters() {
    let server = server();
    let text = "Ünïcode is good. The bad day was bad. It is fine.";
    let answer = server.post("/v1/summarize", &json!({"input": [text, text], "sentences": 2}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    assert_eq!(body["data"][0]["sentences"], body["data"][1]["sentences"]);
    let item = &body["data"][1];
    assert_eq!((&item["index"], &item["num_sentences"], &item["truncated"]), (&json!(1), &json!(3), &json!(false)));
    let sentences = item["sentences"].as_array().expect("sentences");
    assert!([1, 2].contains(&sentences.len()), "{item}");
    for sentence in sentences {
        let place = |name: &str| sentence[name].as_u64().expect("an offset") as usize;
        let quoted: String = text.chars().skip(place("start")).take(place("end") - place("start")).collect();
        assert_eq!(sentence["text"], quoted);
    }
    assert!(item["compression_ratio"].as_f64().is_some_and(|r| r > 0.0 && r < 1.0));
    assert!(body["id"].as_str().is_some_and(|id| id.starts_with("sum-")));
}

#[test]
fn models_are_found_by_names_with_a_slash() {
    let server = server();
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["id"], "sentiment");
    assert_eq!(list["data"][0]["task"], "classify");
    assert_eq!(list["data"][0]["labels"], json!(["negative", "neutral", "positive"]));
    assert_eq!(list["data"][1]["tasks"], json!(["summarize", "embed"]));
    for path in ["/v1/models/org/vectors", "/v1/models/org%2Fvectors"] {
        assert_eq!(server.get(path).json(), list["data"][1]);
    }
    for path in ["/v1/models/nope", "/v1/models/org", "/v1/models/%ff", "/v1/models/../sentiment"] {
        assert_error(&server.get(path), Shape::OpenAi, 404, "model_not_found");
    }
    let info = server.get("/info").json();
    assert_eq!(info["model_id"], "sentiment");
    assert_eq!(info["max_input_length"], MAX_TOKENS);
    assert_eq!(info["models"], list["data"]);
}

#[test]
fn probes_and_pages_answer() {
    let server = server();
    for path in ["/livez", "/readyz", "/health"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.json()), (200, json!({"status": "ok"})));
    }
    let page = server.get("/docs");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    for reference in ["https://", "http://", "//cdn", "@import", "src="] {
        assert!(!page.text().contains(reference), "the page needs nothing from elsewhere, but has {reference}");
    }
    let plain = server.get("/metrics");
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let open = server.connect().request("GET", "/metrics", &[("accept", "application/openmetrics-text")], b"");
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(open.text().ends_with("# EOF\n"));
}

#[test]
fn every_documented_route_answers_and_every_route_is_documented() {
    let server = server();
    let document = server.get("/openapi.json").json();
    // The answer that the example of a label is for.
    let headers = [JSON, ("x-request-id", "5f0c6f2b7d3e4a19b0c1d2e3f4a5b6c7")];
    server.connect().request("POST", "/v1/classify", &headers, br#"{"input": "good"}"#);
    let paths = document["paths"].as_object().expect("paths");
    for route in ROUTES.iter().filter(|route| route.path.starts_with('/')) {
        let documented = route.path.replace("{*", "{");
        assert!(paths.contains_key(&documented), "{documented} is not documented");
    }
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().expect("methods") {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let example = resolve(&document, schema)["example"].clone();
            let body = if example.is_null() { String::new() } else { example.to_string() };
            let path = path.replace("{id}", "sentiment");
            let answer = server.connect().request(&method.to_uppercase(), &path, &[JSON], body.as_bytes());
            assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
            assert_eq!(method == "post", !body.is_empty(), "{path}: every post has an example");
            let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            if !schema.is_null() {
                assert_fits(&document, schema, &answer.json(), &path);
            }
        }
    }
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere")),
        None => schema,
    }
}

/// Checks that an answer has exactly the documented fields, through objects and lists.
fn assert_fits(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = resolve(document, schema);
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, value) in object {
            let property = properties.get(name).unwrap_or_else(|| panic!("{place}: {name} is not documented"));
            assert_fits(document, property, value, &format!("{place}.{name}"));
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(object.contains_key(name.as_str().expect("a name")), "{place}: {name} is missing");
        }
    }
    if let (Some("array"), Some(values)) = (schema["type"].as_str(), value.as_array()) {
        values.iter().for_each(|value| assert_fits(document, &schema["items"], value, place));
    }
}

#[test]
fn a_body_over_the_limit_is_refused_while_it_comes() {
    let (server, _gate) = serve(|settings| settings.server.max_body_bytes = 2048);
    let body = json!({"inputs": MARKER.repeat(1000)}).to_string();
    let answer = server.post_bytes("/predict", body.as_bytes());
    assert_error(&answer, Shape::Native, 413, "PayloadTooLarge");
    assert_error(&server.post_bytes("/v1/classify", body.as_bytes()), Shape::OpenAi, 413, "payload_too_large");
    // An announced length is refused before anything is read.
    let mut connection = server.connect();
    connection.send(b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 99999999999\r\n\r\n").expect("sent");
    assert_error(&connection.response().expect("an answer").expect("an answer"), Shape::Native, 413, "PayloadTooLarge");
    assert!(connection.is_closed());
    // A client that waits for permission never sends the body.
    let mut connection = server.connect();
    let head = b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 9999999\r\nexpect: 100-continue\r\n\r\n";
    connection.send(head).expect("sent");
    assert_eq!(connection.response().expect("an answer").expect("an answer").status, 413);
    // Without an announced length, the limit is found while reading.
    let mut connection = server.connect();
    connection.send(b"POST /predict HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").expect("sent");
    while connection.send(format!("400\r\n{}\r\n", " ".repeat(1024)).as_bytes()).is_ok() {}
    assert_error(&connection.response().expect("an answer").expect("an answer"), Shape::Native, 413, "PayloadTooLarge");
    assert_alive(&server);
}

#[test]
fn a_body_that_fits_is_read_however_it_comes() {
    let server = server();
    let mut connection = server.connect();
    connection.send(b"POST /predict HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").expect("sent");
    for piece in [r#"{"inp"#, r#"uts": "#, r#""good"}"#] {
        connection.send(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).expect("sent");
        std::thread::sleep(Duration::from_millis(10));
    }
    connection.send(b"0\r\n\r\n").expect("sent");
    assert_eq!(connection.response().expect("an answer").expect("an answer").status, 200);
    // Two requests at once on one connection are answered in order.
    connection.send_request("POST", "/predict", &[], br#"{"inputs": "good"}"#).expect("sent");
    connection.send_request("GET", "/livez", &[], b"").expect("sent");
    assert!(connection.response().expect("an answer").expect("an answer").json().is_array());
    assert!(connection.response().expect("an answer").expect("an answer").json().is_object());
    // A body that breaks off gets no answer, and harms nobody.
    connection.send(b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n{").expect("sent");
    drop(connection);
    assert_alive(&server);
}

#[test]
fn slow_clients_are_not_waited_for() {
    let (server, _gate) = serve(|settings| {
        settings.server.header_timeout_ms = 300;
        settings.server.body_idle_timeout_ms = 300;
        settings.server.body_timeout_ms = 900;
        settings.server.idle_timeout_ms = 600;
    });
    let series_at_start = series(&server);
    let took_at_least = |start: Instant, millis: u64| {
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(millis), "too early: {took:?}");
        assert!(took < Duration::from_secs(20), "too late: {took:?}");
    };
    // Nothing at all, and a head that trickles: closed.
    let start = Instant::now();
    assert!(server.connect().is_closed());
    took_at_least(start, 290);
    let (start, mut connection) = (Instant::now(), server.connect());
    while connection.send(b"G").is_ok() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    took_at_least(start, 290);
    // A head that trickles after an answered request: closed too, by its own time and not by the idle time.
    let mut connection = server.connect();
    assert_eq!(connection.request("GET", "/livez", &[], b"").status, 200);
    connection.send(b"GET /li").expect("sent");
    let start = Instant::now();
    assert!(connection.is_closed());
    took_at_least(start, 290);
    assert!(start.elapsed() < Duration::from_millis(590), "the idle time is longer");
    // No request after an answer: closed when idle for long enough.
    let mut connection = server.connect();
    assert_eq!(connection.request("GET", "/livez", &[], b"").status, 200);
    let start = Instant::now();
    assert!(connection.is_closed());
    took_at_least(start, 590);
    // A body that stops: 408.
    let head = b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n{";
    let (start, mut connection) = (Instant::now(), server.connect());
    connection.send(head).expect("sent");
    let answer = connection.response().expect("an answer").expect("an answer");
    took_at_least(start, 290);
    assert_error(&answer, Shape::Native, 408, "Timeout");
    assert!(connection.is_closed());
    // A body that trickles for ever: 408 as well.
    let (start, mut connection) = (Instant::now(), server.connect());
    connection.send(b"POST /v1/classify HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n").expect("sent");
    while start.elapsed() < Duration::from_millis(1100) && connection.send(b" ").is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let answer = connection.response().expect("an answer").expect("an answer");
    took_at_least(start, 890);
    assert_error(&answer, Shape::OpenAi, 408, "request_timeout");
    assert_alive(&server);
    assert_eq!(series(&server), series_at_start, "every series existed at the start");
}

#[test]
fn a_client_that_does_not_read_is_disconnected() {
    let (server, _gate) = serve(|settings| settings.server.write_timeout_ms = 300);
    let open = || metric(&server, "octet_connections");
    let mut deaf = server.connect();
    // Answers pile up until the sockets are full; then the server stops reading too.
    deaf.set_patience(Duration::from_millis(200));
    while deaf.send_request("GET", "/openapi.json", &[], b"").is_ok() {}
    wait_until("only the connection that asks is left", || open() == 1.0);
    assert_alive(&server);
}

#[test]
fn bodies_of_many_clients_share_their_memory() {
    let (server, _gate) = serve(|settings| settings.server.max_total_body_bytes = 64 * 1024);
    let series_at_start = series(&server);
    let half = "x".repeat(40 * 1024);
    let begin = || {
        let mut connection = server.connect();
        let head = "POST /v1/classify HTTP/1.1\r\nhost: test\r\ncontent-length: 60000\r\n\r\n";
        connection.send(head.as_bytes()).expect("sent");
        connection.send(half.as_bytes()).expect("sent");
        connection
    };
    // The two are read in any order; one of them is refused, the other keeps its place.
    let mut clients = [begin(), begin()];
    clients.iter_mut().for_each(|client| client.set_patience(Duration::from_millis(50)));
    let refused = loop {
        if let Some(answer) = clients.iter_mut().find_map(|client| client.response().ok().flatten()) {
            break answer;
        }
    };
    assert_error(&refused, Shape::OpenAi, 429, "rate_limit_exceeded");
    assert_eq!(metric(&server, r#"octet_rejected_total{model="_unknown",reason="queue_full"}"#), 1.0);
    assert_eq!(metric(&server, r#"octet_rejected_total{model="_unknown",reason="invalid"}"#), 0.0);
    drop(clients);
    wait_until("the memory is free again", || {
        server.post("/v1/classify", &json!({"input": "good ".repeat(10_000)})).status == 200
    });
    assert_eq!(series(&server), series_at_start, "every series existed at the start");
}

#[test]
fn a_body_keeps_its_share_of_the_memory_until_it_is_answered() {
    let (server, gate) = serve(|settings| settings.server.max_total_body_bytes = 64 * 1024);
    gate.shut();
    let body = json!({"input": format!("slow {}", "good ".repeat(8_000))}).to_string();
    let mut parked = server.connect();
    parked.send_request("POST", "/v1/classify", &[JSON], body.as_bytes()).expect("sent");
    wait_until("the first is computed", || gate.is_waited_at());
    assert_error(&server.post_bytes("/v1/classify", body.as_bytes()), Shape::OpenAi, 429, "rate_limit_exceeded");
    gate.open();
    assert_eq!(parked.response().expect("an answer").expect("an answer").status, 200);
    wait_until("the memory is free again", || server.post_bytes("/v1/classify", body.as_bytes()).status == 200);
}

#[test]
fn a_large_body_is_read_as_a_small_one_is() {
    let server = server();
    let text = "good ".repeat(100_000);
    let answer = server.post("/v1/classify", &json!({"input": text}));
    assert_eq!((answer.status, answer.header("x-truncated")), (200, Some("1")), "{}", answer.text());
    let broken = format!("{{\"input\": [\"{text}\", 7]}}");
    let answer = server.post_bytes("/v1/classify", broken.as_bytes());
    assert_error(&answer, Shape::OpenAi, 400, "invalid_value");
    assert_eq!(answer.json()["error"]["param"], "input[1]");
}

#[test]
fn connections_over_the_cap_are_told_so() {
    let (server, _gate) = serve(|settings| settings.server.max_connections = 2);
    let mut first = server.connect();
    let mut second = server.connect();
    assert_eq!(first.request("GET", "/livez", &[], b"").status, 200);
    assert_eq!(second.request("GET", "/livez", &[], b"").status, 200);
    let count = |connection: &mut Connection| {
        let text = connection.request("GET", "/metrics", &[], b"").text().to_owned();
        let line = text.lines().find(|line| line.starts_with("octet_connections_refused_total"));
        line.expect("the counter").rsplit(' ').next().expect("a value").to_owned()
    };
    assert_eq!(count(&mut first), "0");
    let mut third = server.connect();
    let answer = third.request("POST", "/predict", &[JSON], br#"{"inputs": "good"}"#);
    assert_eq!(count(&mut first), "1");
    assert_error(&answer, Shape::Native, 503, "Unhealthy");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(third.is_closed());
    assert_eq!(second.request("GET", "/livez", &[], b"").status, 200, "open connections go on");
    drop(first);
    wait_until("a place is free", || server.connect().request("GET", "/livez", &[], b"").status == 200);
}

#[test]
fn garbage_is_refused_and_the_server_goes_on() {
    let server = server();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let heads: [&[u8]; 8] = [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET /livez HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /predict HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET /v1/models/%00%ff HTTP/1.1\r\nhost: test\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nhost: test\r\n\r\n",
    ];
    let many_headers = [b"GET /livez HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(200), b"\r\n".to_vec()].concat();
    let long_header = [b"GET /livez HTTP/1.1\r\na: ".to_vec(), vec![b'x'; 100_000], b"\r\n\r\n".to_vec()].concat();
    let noise = (0..100).map(|_| (0..64).flat_map(|_| random().to_le_bytes()).chain(*b"\r\n\r\n").collect::<Vec<u8>>());
    for bytes in heads.map(<[u8]>::to_vec).into_iter().chain([many_headers, long_header]).chain(noise) {
        let mut connection = server.connect();
        if connection.send(&bytes).is_ok()
            && let Ok(Some(answer)) = connection.response()
        {
            assert!((400..500).contains(&answer.status), "{} for {:?}", answer.status, String::from_utf8_lossy(&bytes));
        }
    }
    assert_alive(&server);
}

#[test]
fn a_deadline_that_passes_is_504_while_waiting_and_while_computing() {
    let (server, gate) = serve(|_| {});
    gate.shut();
    // The first of these is computing, the others wait behind it.
    let ask = |path: &'static str, headers: &'static [(&'static str, &'static str)], body: Value| {
        let address = server.address;
        std::thread::spawn(move || {
            let start = Instant::now();
            let mut connection = Connection::open(address).expect("the server accepts");
            (connection.request("POST", path, headers, body.to_string().as_bytes()), start.elapsed())
        })
    };
    let asked = [
        (Shape::Native, ask("/predict", &[JSON, ("x-request-timeout-ms", "150")], json!({"inputs": "slow"}))),
        (Shape::OpenAi, ask("/v1/classify", &[JSON], json!({"input": "slow zqxmarker", "timeout_ms": 150}))),
        // The smaller one wins.
        (
            Shape::OpenAi,
            ask(
                "/v1/classify",
                &[JSON, ("x-request-timeout-ms", "60000")],
                json!({"input": "slow", "timeout_ms": 150}),
            ),
        ),
        (
            Shape::OpenAi,
            ask(
                "/v1/embeddings",
                &[JSON, ("x-request-timeout-ms", "150")],
                json!({"input": "slow", "timeout_ms": 60_000}),
            ),
        ),
    ];
    for (shape, asked) in asked {
        let (answer, took) = asked.join().expect("the client does not panic");
        assert_error(&answer, shape, 504, if shape == Shape::Native { "Timeout" } else { "deadline_exceeded" });
        assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(20), "{took:?}");
    }
    gate.open();
    assert_alive(&server);
}

#[test]
fn the_server_limits_how_long_a_client_may_ask_to_wait() {
    let (server, gate) = serve(|settings| settings.server.request_timeout_ms = 200);
    gate.shut();
    let headers = [JSON, ("x-request-timeout-ms", "600000")];
    let answer = server.connect().request("POST", "/predict", &headers, br#"{"inputs": "slow"}"#);
    assert_error(&answer, Shape::Native, 504, "Timeout");
    gate.open();
}

#[test]
fn a_full_queue_is_429_with_the_time_to_come_back() {
    let (server, gate) = serve(|settings| settings.batching.max_queue_tokens = 16);
    gate.shut();
    let body = json!({"input": "slow good bad fine"}).to_string();
    let mut waiting = Vec::new();
    let refused = loop {
        assert!(waiting.len() < 20, "the queue never fills");
        let mut connection = server.connect();
        connection.send_request("POST", "/v1/classify", &[JSON], body.as_bytes()).expect("sent");
        // A refusal comes at once; an accepted request is answered when the gate opens.
        connection.set_patience(Duration::from_millis(300));
        match connection.response() {
            Ok(answer) => break answer.expect("an answer"),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                waiting.push(connection);
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert_error(&refused, Shape::OpenAi, 429, "rate_limit_exceeded");
    assert!(refused.header("retry-after").and_then(|s| s.parse::<u64>().ok()).is_some_and(|s| s >= 1));
    let refused = server.post("/predict", &json!({"inputs": "slow good bad fine"}));
    assert_error(&refused, Shape::Native, 429, "Overloaded");
    assert_eq!(server.get("/readyz").status, 200, "a full queue is no reason to send nothing at all");
    gate.open();
    assert!(waiting.len() >= 2, "one computes and one waits at least");
    for mut connection in waiting {
        connection.set_patience(crate::support::PATIENCE);
        assert_eq!(connection.response().expect("an answer").expect("an answer").status, 200);
    }
    assert_alive(&server);
}

#[test]
fn a_client_that_leaves_is_counted_and_its_work_dropped() {
    let (server, gate) = serve(|_| {});
    let series_at_start = series(&server);
    gate.shut();
    let mut connection = server.connect();
    connection.send_request("POST", "/v1/classify", &[JSON], br#"{"input": "slow"}"#).expect("sent");
    let in_flight = || metric(&server, r#"octet_requests_in_flight{model="sentiment"}"#);
    wait_until("the request is in the engine", || in_flight() == 1.0);
    drop(connection);
    let canceled = r#"octet_rejected_total{model="sentiment",reason="canceled"}"#;
    wait_until("the cancellation is counted", || metric(&server, canceled) == 1.0);
    let text = server.get("/metrics").text().to_owned();
    let of_route = |line: &&str| line.contains(r#"route="/v1/classify""#) && line.contains(r#"code="499""#);
    let counted = text.lines().filter(of_route).any(|line| line.ends_with(" 1"));
    assert!(counted, "the request is counted with code 499");
    gate.open();
    wait_until("nothing is in flight", || in_flight() == 0.0);
    assert_alive(&server);
    assert_eq!(series(&server), series_at_start, "every series existed at the start");
}

/// Names and labels of all series, sorted.
fn series(server: &TestServer) -> Vec<String> {
    let text = server.get("/metrics").text().to_owned();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut series: Vec<String> =
        lines.map(|line| line.rsplit_once(' ').expect("a series has a value").0.to_owned()).collect();
    series.sort();
    series
}

/// Value of one series.
fn metric(server: &TestServer, series: &str) -> f64 {
    let text = server.get("/metrics").text().to_owned();
    let line = text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn requests_are_counted_by_template_and_status() {
    let server = server();
    for id in ["sentiment", "org/vectors", "nope"] {
        server.get(&format!("/v1/models/{id}"));
    }
    server.get(&format!("/{MARKER}"));
    server.post("/v1/classify", &json!({"input": "good", "model": MARKER}));
    let text = server.get("/metrics").text().to_owned();
    assert!(!text.contains(MARKER), "what a client sent never becomes a label");
    let count = |route: &str, code: &str| {
        let matches = |l: &&str| {
            l.starts_with("octet_requests_total")
                && l.contains(&format!("route=\"{route}\""))
                && l.contains(&format!("code=\"{code}\""))
        };
        text.lines()
            .filter(matches)
            .map(|l| l.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number"))
            .sum::<f64>()
    };
    assert_eq!(count("/v1/models/{*id}", "200"), 2.0);
    assert_eq!(count("/v1/models/{*id}", "404"), 1.0);
    assert_eq!(count("_unmatched", "404"), 1.0);
    assert_eq!(count("/v1/classify", "404"), 1.0);
}

#[test]
fn while_draining_readiness_is_503_and_answers_ask_to_leave() {
    let (mut server, gate) = serve(|settings| {
        settings.server.lame_duck_ms = 1_000;
        settings.engine.threads = 2;
    });
    let series_at_start = series(&server);
    gate.shut();
    let mut busy = server.connect();
    busy.send_request("POST", "/v1/classify", &[JSON], br#"{"input": "slow"}"#).expect("sent");
    wait_until("the request is computed", || gate.is_waited_at());
    server.begin_stop();
    wait_until("readiness is off", || server.get("/readyz").status == 503);
    assert_eq!(metric(&server, r#"octet_model_ready{model="sentiment""#), 0.0);
    assert_eq!(series(&server), series_at_start, "every series existed at the start");
    let answer = server.get("/readyz");
    assert_error(&answer, Shape::Native, 503, "Unhealthy");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.json()["estimated_time"], 1);
    assert_eq!(server.get("/livez").status, 200, "it is still alive");
    let answer = server.post("/predict", &json!({"inputs": "good"}));
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close")),
        "for a while, late clients are answered"
    );
    gate.open();
    let answer = busy.response().expect("an answer").expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "accepted before, answered now");
    let report = server.stop();
    assert_eq!(report.forced, 0);
}

#[test]
fn after_the_lame_duck_late_requests_are_503_and_earlier_ones_answered() {
    let mut server = server();
    let (head, body) = ("POST /v1/classify HTTP/1.1\r\nhost: test\r\ncontent-length: 17\r\n", br#"{"input": "good"}"#);
    let mut early = server.connect();
    early.send(format!("{head}expect: 100-continue\r\n\r\n").as_bytes()).expect("sent");
    assert_eq!(early.response().expect("an answer").expect("an answer").status, 100, "the request has arrived");
    // Half a head keeps a connection open that has no request yet.
    let mut late = server.connect();
    assert_eq!(late.request("GET", "/livez", &[], b"").status, 200);
    late.send(head.as_bytes()).expect("sent");
    server.begin_stop();
    wait_until("the listener closes", || std::net::TcpStream::connect(server.address).is_err());
    late.send(b"\r\n").expect("sent");
    late.send(body).expect("sent");
    let answer = late.response().expect("an answer").expect("an answer");
    assert_error(&answer, Shape::OpenAi, 503, "draining");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.header("retry-after").is_some());
    early.send(body).expect("sent");
    let answer = early.response().expect("an answer").expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{}", answer.text());
    assert_eq!(server.stop().forced, 0);
}

#[test]
fn what_cannot_finish_in_time_is_refused_when_the_server_stops() {
    let (mut server, gate) = serve(|settings| settings.server.drain_timeout_ms = 200);
    gate.shut();
    let mut native = server.connect();
    let mut open_ai = server.connect();
    native.send_request("POST", "/predict", &[JSON], br#"{"inputs": "slow"}"#).expect("sent");
    wait_until("the first is computing", || metric(&server, r#"octet_requests_in_flight{model="sentiment"}"#) == 1.0);
    open_ai.send_request("POST", "/v1/classify", &[JSON], br#"{"input": "slow"}"#).expect("sent");
    wait_until("the second waits", || metric(&server, r#"octet_requests_in_flight{model="sentiment"}"#) == 2.0);
    server.begin_stop();
    let answer = open_ai.response().expect("an answer").expect("an answer");
    assert_error(&answer, Shape::OpenAi, 503, "draining");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(answer.header("retry-after").is_some());
    gate.open();
    server.stop();
}

#[test]
fn a_drain_under_load_loses_nothing() {
    for round in 0..10 {
        // A client that connects in the very moment in which the listener closes was accepted by the kernel and not by
        // the server, so without a lame duck only connections that are open already are promised an answer.
        let (lame_duck_ms, keeping, reconnecting) = if round % 2 == 0 { (0, 8, 0) } else { (300, 4, 4) };
        let (mut server, _gate) = serve(|settings| settings.server.lame_duck_ms = lame_duck_ms);
        let load = Load::start(server.address, keeping, reconnecting);
        load.wait_for(200);
        server.begin_stop();
        let report = server.stop();
        let refused = load.assert_nothing_lost();
        assert!(refused <= keeping + reconnecting, "who is refused leaves");
        assert_eq!(report.forced, 0, "{report:?}");
    }
}
